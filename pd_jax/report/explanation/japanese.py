"""What there is to say of a run, in Japanese, for people who are not researchers."""

# ruff: noqa: E501 - Japanese letters are as wide as two.
from __future__ import annotations

TITLES = {
    "goal": "目的",
    "done": "行ったこと",
    "result": "結果の良さ",
    "limits": "結果を制限しているもの",
    "next": "次に試すこと",
}
AND, COMMA = "と", "、"
DURATIONS = {"seconds": "{}秒", "minutes": "{}分", "hours": "{}時間"}

SENTENCES = {
    # What it is for.
    "goal_distill": "小さなネットワーク（生徒）が、すでに{games}をプレイできるネットワーク（教師）をまねることで、そのプレイを学習します。",
    "goal_distill_several": "小さなネットワーク（生徒）が、すでにプレイできる複数のネットワーク（教師）をまねることで、{games}のプレイを学習します。",
    "goal_online": "教師が得点をもとに{games}を学習し、その間に、より小さなネットワーク（生徒）が教師をまねて学習します。",
    "goal_teacher": "ネットワークが、得られた得点をもとに、試行錯誤によって{games}を学習します。",
    "goal_evaluate": "学習済みのネットワークに{games}をプレイさせ、どのくらい上手かを測ります。",
    "goal_sweep": "複数の生徒が、それぞれ異なる条件で{games}を学習します。これにより条件どうしを比較できます。",
    # What was done.
    "done_distill": "小さなネットワーク（生徒）が、すでに{games}をプレイできるネットワーク（教師）をまねることで、"
    "そのプレイを学習しました。得点は生徒に一度も知らされていません。",
    "done_distill_several": "小さなネットワーク（生徒）が、すでにプレイできる複数のネットワーク（教師）をまねることで、"
    "{games}のプレイを学習しました。得点は生徒に一度も知らされていません。",
    "done_online": "教師が得点をもとに{games}を学習し、その間に、より小さなネットワーク（生徒）が教師をまねて学習しました。",
    "done_teacher": "ネットワークが、得られた得点をもとに、試行錯誤によって{games}を学習しました。"
    "このネットワークは、より小さなネットワークの教師になれます。",
    "done_evaluate": "ここでは学習は行っていません。学習済みのネットワークに{games}をプレイさせ、どのくらい上手かを測りました。",
    "done_sweep": "複数の生徒が、それぞれ異なる条件で{games}を学習しました。これにより条件どうしを比較できます。",
    "work_student": "学習のために{steps}回分の行動をプレイし、{updates}回の小さな修正（更新）で学習しました。"
    "全体の所要時間は{time}です。",
    "work_recorded": "記録済みのプレイから{steps}回分の行動を読み込み、{updates}回の小さな修正（更新）で学習しました。"
    "全体の所要時間は{time}です。",
    "work_teacher": "{steps}回の行動を選び、その結果から{updates}回の小さな修正（更新）で学習しました。全体の所要時間は{time}です。",
    "started_from": "学習はゼロからではなく、別のネットワークがすでに学習した状態から始めました。",
    "behaviour_mixture": "学習が進むにつれて、一部は生徒自身がプレイし、教師は「自分ならどうするか」を示しました。"
    "そのため生徒は、自分が失敗した後にどうすればよいかも学んでいます。",
    "behaviour_student": "最初から生徒自身がプレイし、教師は「自分ならどうするか」を示すだけでした。",
    "size_smaller": "生徒は{student}個の数値（パラメータ）でできています。教師の{teacher}個に比べ、{times}分の1の大きさです。",
    "size_alike": "生徒は{student}個、教師は{teacher}個の数値（パラメータ）でできています。生徒は教師より小さくなっていません。",
    "sweep_cells": "学習と採点が終わった生徒の数は{cells}です。",
    # How good it is.
    "measured": "それぞれ{episodes}ゲームを最初から最後までプレイしました。得点はその平均です。",
    "measured_cut_off": "それぞれ{episodes}ゲームをプレイしました（1ゲームは最長{steps}回の行動で打ち切り）。得点はその平均です。",
    "measured_alone": "{episodes}ゲームを最初から最後までプレイしました。得点はその平均です。",
    "measured_by_chance": "同じ展開のゲームばかりにならないよう、行動の{percent}%は偶然に任せて選んでいます。",
    "scores": "{game}：生徒の得点は{student}、教師の得点は{teacher}です。",
    "scores_and_random": "{game}：生徒の得点は{student}、教師の得点は{teacher}です。ランダムに操作した場合の得点は{random}です。",
    "level_better": "{game}では、生徒は教師よりも上手です。ランダムな操作を0、教師を100とすると、生徒は{percent}です。",
    "level_as_good": "{game}では、このゲーム数で分かる限り、生徒は教師と同じくらい上手です。"
    "ランダムな操作を0、教師を100とすると、生徒は{percent}です。",
    "level_nearly": "{game}では、生徒は教師とほぼ同じくらい上手です。ランダムな操作を0、教師を100とすると、生徒は{percent}です。",
    "level_unclear": "{game}では、ランダムな操作を0、教師を100とすると、生徒は{percent}です。"
    "ただし、実際にどれだけ教師に近いかを判断するには、ゲーム数が足りません。",
    "level_below": "{game}では、生徒は教師のプレイの多くを身につけましたが、まだはっきりと劣っています。"
    "ランダムな操作を0、教師を100とすると、生徒は{percent}です。",
    "level_well_below": "{game}では、生徒はある程度学習しましたが、教師にはまだ遠く及びません。"
    "ランダムな操作を0、教師を100とすると、生徒は{percent}です。",
    "level_hardly": "{game}では、生徒はほとんど何も学習できていません。ランダムな操作を0、教師を100とすると、生徒は{percent}です。",
    "level_unknown": "{game}については、得点だけでは、生徒がどれだけ教師に近いか分かりません。",
    "mean_of_games": "全{games}ゲームを通した、この尺度での平均（幾何平均）は{percent}です。",
    "teacher_score": "{game}：得点は{teacher}です。",
    "teacher_score_and_random": "{game}：得点は{teacher}です。ランダムに操作した場合の得点は{random}です。",
    "teacher_learnt_nothing": "{game}では、偶然に任せた場合と変わりません。まだ何も学習できていません。",
    "teacher_above_human": "{game}では、人間のテストプレイヤーの得点{human}と同等か、それ以上です。",
    "teacher_under_human": "{game}では、人間のテストプレイヤーの得点{human}には届いていません。",
    "teacher_alone": "{game}：教師の得点は、{episodes}ゲームの平均で{teacher}です。",
    "student_alone": "{game}：生徒の得点は、{episodes}ゲームの平均で{student}です。",
    "sweep_best": "最も良かった条件は「{recipe}」です。ランダムな操作を0、教師を100とすると、{percent}です。",
    "sweep_worst": "最も悪かった条件は「{recipe}」で、{percent}です。",
    "no_result": "最後まで実行されていないため、まだ得点はありません。",
    "no_result_running": "現在実行中のため、まだ得点はありません。",
    "not_begun": "何も学習しないうちに停止しました。",
    "running_begins": "ちょうど始まったところです。",
    "running_updates": "現在実行中です。{planned}回の更新のうち{step}回（{percent}%）が終わりました。得点は最後に測ります。",
    "running_steps": "現在実行中です。{planned}回の行動のうち{step}回（{percent}%）が終わりました。最終的な得点は最後に測ります。",
    "running_somewhere": "現在実行中で、ステップ{step}まで進んでいます。",
    "stopped_updates": "途中で停止しました。{planned}回の更新のうち{step}回（{percent}%）が終わっています。得点は最後に測ります。",
    "stopped_steps": "途中で停止しました。{planned}回の行動のうち{step}回（{percent}%）が終わっています。最終的な得点は最後に測ります。",
    "stopped_somewhere": "ステップ{step}で停止しました。",
    "diverged_updates": "{planned}回の更新のうち{step}回目（{percent}%）で、数値が際限なく大きくなり（発散）、学習が破綻しました。",
    "diverged_steps": "{planned}回の行動のうち{step}回目（{percent}%）で、数値が際限なく大きくなり（発散）、学習が破綻しました。",
    "diverged_somewhere": "ステップ{step}で数値が際限なく大きくなり（発散）、学習が破綻しました。",
    "agreement_rose": "ここまでの学習は順調です。学習に使った場面で教師と同じ行動を選んだ割合は、初めは{first}%、最近は{last}%です。",
    "agreement_stayed": "ここまでのところ、生徒は教師に近づいていません。学習に使った場面で教師と同じ行動を選んだ割合は、"
    "初めは{first}%、最近は{last}%です。",
    "score_so_far": "{game}：途中で最後に測った得点は{score}です。",
    # What limits it.
    "few_games": "ゲーム数が少ないため（{episodes}）、本当の上手さはまだよく分かりません。",
    "uncertain": "得点はまだ確かではありません。{episodes}ゲームだけでは、真の平均は{low}から{high}のどこにあってもおかしくありません。",
    "worst_game": "平均を最も下げているのは{game}です。",
    "never_learnt": "学習が進みませんでした。最後の誤差は、初めと同じくらいの大きさです。学習率が高すぎることがよくある原因です。",
    "still_learns": "学習はまだ終わっていませんでした。最後の時点でも誤差が減り続けていました。",
    "agrees_but_fails": "学習に使った場面の{percent}%で教師と同じ行動を選びますが、それでも得点は劣ります。"
    "まれな失敗によって教師が経験しなかった状況に入り込み、そこでどうすればよいか分からなくなるためと考えられます。",
    "perhaps_too_small": "教師と同じ行動を選ぶのは場面の{percent}%にとどまり、誤差ももう減っていません。"
    "教師の{times}分の1という大きさでは、小さすぎるのかもしれません。",
    "agreement": "学習に使った場面で教師と同じ行動を選ぶ割合は、{percent}%にとどまります。",
    "the_teacher": "生徒が教師を上回ることはまれです。教師にできないことは学べません。",
    "teacher_below_human": "{game}では、教師自身の得点が{teacher}で、人間のテストプレイヤーの得点{human}を下回っています。",
    "teacher_is_random": "{game}では、教師のプレイが偶然に任せた場合と変わらないため、教師から学べることがありません。",
    "time_stepping": "学習時間の{percent}%は、ゲームそのもの（エミュレータ）の実行に使われました。"
    "CPUのコア数を増やすのが最も効果的です。",
    "time_inference": "学習時間の{percent}%は、プレイ中の行動を決める計算に使われました。"
    "より速いプロセッサやGPUを使うのが最も効果的です。",
    "time_updates": "学習時間の{percent}%は、学習の計算（更新）に使われました。GPUを使うか、ネットワークを小さくするのが最も効果的です。",
    "time_input": "学習時間の{percent}%は、保存されたプレイの読み込み待ちでした。より速いディスクを使うのが最も効果的です。",
    "one_seed": "これは1回だけの実行結果です。偶然の影響があり、もう一度実行すると、より良くなることも悪くなることもあります。",
    "curve_rises": "学習はまだ終わっていませんでした。最後の時点でも得点が伸び続けていました。",
    "curve_flat": "最後の時点では、得点はもうあまり伸びていませんでした。同じ学習を続けても、効果は小さいかもしれません。",
    "sweep_failed": "失敗した生徒の数は{cells}です。理由は表に書かれています。",
    "sweep_few_seeds": "各条件を試した乱数シードの数が少ないため（{seeds}）、差は偶然かもしれません。",
    "saved_updates": "{step}回目の更新までの学習結果は保存されています。",
    "saved_steps": "{step}回目の行動までの学習結果は保存されています。",
    "nothing_saved": "まだ何も保存されていないため、最初からやり直す必要があります。",
    "diverged": "よくある原因は、学習率が高すぎることです。修正のたびに行き過ぎ、次の修正ではさらに大きく行き過ぎてしまいます。",
    # What to try next.
    "wait": "終わるまで待ってから、もう一度このコマンドを実行してください。",
    "resume": "停止したところから続けます：",
    "begin_anew": "同じ設定で最初からやり直します：",
    "lower_rate": "学習率を10分の1に下げてみます：",
    "roll_back": "または、最後の正常な状態に自動で戻るようにします：",
    "use_it": "生徒を使います。このプログラムのライブラリがなくても動くファイルに書き出します：",
    "smaller": "より小さな生徒（{network}）を試します：",
    "more_games": "より多くのゲームをプレイして、得点を確かなものにします：",
    "another_seed": "乱数を変えてもう一度実行し、偶然の影響がどのくらいあるかを調べます：",
    "loss_kl": "教師の好みの分布全体を比べる損失（KL）を試します。ほかの人の実験で最も良い結果が出ている方法です：",
    "longer": "より長く学習させます：",
    "dagger": "一部を生徒自身にプレイさせ、失敗した後にどうすればよいかも学ばせます：",
    "larger": "より大きな生徒（{network}）を試します：",
    "wider": "層の幅を2倍にした、より大きな生徒を試します：",
    "train_longer": "より長く学習させます：",
    "distil_it": "より小さなネットワークに、これを教師として学習させます：",
    "sweep_report": "すべての数値を1つの報告書にまとめます：",
}
