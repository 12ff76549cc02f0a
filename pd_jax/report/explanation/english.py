"""What there is to say of a run, in English, for people who are not researchers."""

from __future__ import annotations

TITLES = {
    "goal": "What it is for",
    "done": "What was done",
    "result": "How good it is",
    "limits": "What limits it",
    "next": "What to try next",
}
AND, COMMA = " and ", ", "
DURATIONS = {"seconds": "{} seconds", "minutes": "{} minutes", "hours": "{} hours"}

SENTENCES = {
    # What it is for.
    "goal_distill": "A small network, the student, is to learn to play {games} by imitating one that plays it "
    "already, the teacher.",
    "goal_distill_several": "A small network, the student, is to learn to play {games} by imitating networks that "
    "play them already, its teachers.",
    "goal_online": "A teacher is to learn to play {games} from the score, and a smaller network, the student, to "
    "imitate it meanwhile.",
    "goal_teacher": "A network is to learn to play {games} by trial and error, from the points that it makes.",
    "goal_evaluate": "Trained networks are to play {games}, to see how good they are.",
    "goal_sweep": "Several students are to learn to play {games}, each by another recipe, so that the recipes can be "
    "compared.",
    # What was done.
    "done_distill": "A small network, the student, learned to play {games} by imitating one that plays it already, "
    "the teacher. It was never told the score.",
    "done_distill_several": "A small network, the student, learned to play {games} by imitating networks that play "
    "them already, its teachers. It was never told the score.",
    "done_online": "A teacher learned to play {games} from the score, and a smaller network, the student, learned to "
    "imitate it meanwhile.",
    "done_teacher": "A network learned to play {games} by trial and error, from the points that it made. It can be "
    "the teacher of a smaller one.",
    "done_evaluate": "Nothing was learned here: trained networks played {games}, to see how good they are.",
    "done_sweep": "Several students learned to play {games}, each by another recipe, so that the recipes can be "
    "compared.",
    "work_student": "{steps} decisions were played for it to learn from. It learned in {updates} small corrections "
    "(updates), and all took {time}.",
    "work_recorded": "It learned from a recording, of which {steps} decisions were read, in {updates} small "
    "corrections (updates). All took {time}.",
    "work_teacher": "It made {steps} decisions and learned from them in {updates} small corrections (updates). All "
    "took {time}.",
    "started_from": "It did not start from nothing, but from what another network had learned before.",
    "added_head": "A part of the network was added for {games}, and that part alone learned: what it could do "
    "before cannot change.",
    "added_all": "{games} was added. The student went on with its old games beside it, so as not to forget them.",
    "added_held": "{games} was added. The student saw only that, and was held near to what it had been before.",
    "left_out": "What it could do in {games} was left out.",
    "behaviour_mixture": "As it went on, the student played a part of the time itself, and the teacher said what it "
    "would have done: so the student also learned what to do after its own mistakes.",
    "behaviour_student": "The student played itself from the start, and the teacher only said what it would have done.",
    "size_smaller": "The student consists of {student} numbers (parameters), which is {times} times fewer than the "
    "teacher's {teacher}.",
    "size_alike": "The student consists of {student} numbers (parameters), the teacher of {teacher}: it is no smaller.",
    "sweep_cells": "Students that have learned and were scored: {cells}.",
    # How good it is.
    "measured": "Whole games that each of them played: {episodes}. A score is the average over these.",
    "measured_cut_off": "Games that each played: {episodes}, cut off after {steps} decisions at the latest. A score "
    "is the average over these.",
    "measured_alone": "Whole games that it played: {episodes}. A score is the average over these.",
    "measured_by_chance": "In {percent} % of the decisions chance picked the action, so that no two games are the "
    "same.",
    "scores": "{game}: the student scores {student}, the teacher {teacher}.",
    "scores_and_random": "{game}: the student scores {student} and the teacher {teacher}. Actions picked at random "
    "score {random}.",
    "level_better": "In {game} the student is even better than its teacher. On a scale from random actions (zero) to "
    "the teacher (one hundred) it stands at {percent}.",
    "level_as_good": "In {game} the student is as good as its teacher, as far as this many games can tell. On a scale "
    "from random actions (zero) to the teacher (one hundred) it stands at {percent}.",
    "level_nearly": "In {game} the student is nearly as good as its teacher. On a scale from random actions (zero) to "
    "the teacher (one hundred) it stands at {percent}.",
    "level_unclear": "In {game} the student stands at {percent} on a scale from random actions (zero) to the teacher "
    "(one hundred), but too few games were played to say how close it really is.",
    "level_below": "In {game} the student has learned much of what the teacher can do, and is clearly worse all the "
    "same. On a scale from random actions (zero) to the teacher (one hundred) it stands at {percent}.",
    "level_well_below": "In {game} the student has learned something, and is far from its teacher. On a scale from "
    "random actions (zero) to the teacher (one hundred) it stands at {percent}.",
    "level_hardly": "In {game} the student has learned next to nothing. On a scale from random actions (zero) to the "
    "teacher (one hundred) it stands at {percent}.",
    "level_unknown": "For {game} the scores alone do not tell how close the student is to its teacher.",
    "forgotten": "{game}: before anything was added it scored {before}. It has forgotten {percent} % of that, counted "
    "from random actions.",
    "not_forgotten": "{game}: before anything was added it scored {before}. Of that it has forgotten next to nothing.",
    "mean_of_games": "Over all {games} games, the average on that scale (a geometric mean) is {percent}.",
    "teacher_score": "{game}: it scores {teacher}.",
    "teacher_score_and_random": "{game}: it scores {teacher}. Actions picked at random score {random}.",
    "teacher_learnt_nothing": "In {game} that is no better than chance: it has learned nothing yet.",
    "teacher_above_human": "In {game} that is as good as a human tester, who scored {human}, or better.",
    "teacher_under_human": "In {game} a human tester scored more: {human}.",
    "teacher_alone": "{game}: the teacher scores {teacher}, on average over {episodes} games.",
    "student_alone": "{game}: the student scores {student}, on average over {episodes} games.",
    "sweep_best": "Best recipe: {recipe}. On a scale from random actions (zero) to the teacher (one hundred) it "
    "stands at {percent}.",
    "sweep_worst": "Worst recipe: {recipe}, at {percent}.",
    "no_result": "It has not come to its end, so there are no scores yet.",
    "no_result_running": "It is at work at this moment; there are no scores yet.",
    "not_begun": "It was stopped before it had learned anything.",
    "running_begins": "It is just beginning.",
    "running_updates": "It is at work at this moment: {step} of {planned} updates are done, {percent} %. The scores "
    "come at its end.",
    "running_steps": "It is at work at this moment: {step} of {planned} decisions are played, {percent} %. The final "
    "score comes at its end.",
    "running_somewhere": "It is at work at this moment, at step {step}.",
    "stopped_updates": "It was stopped on its way: {step} of {planned} updates are done, {percent} %. The scores come "
    "at its end.",
    "stopped_steps": "It was stopped on its way: {step} of {planned} decisions are played, {percent} %. The final "
    "score comes at its end.",
    "stopped_somewhere": "It was stopped on its way, at step {step}.",
    "diverged_updates": "It went wrong at update {step} of {planned} ({percent} %): its numbers grew beyond all "
    "bounds.",
    "diverged_steps": "It went wrong after {step} of {planned} decisions ({percent} %): its numbers grew beyond all "
    "bounds.",
    "diverged_somewhere": "It went wrong at step {step}: its numbers grew beyond all bounds.",
    "agreement_rose": "So far it learns: at first it picked the teacher's action in {first} % of the decisions that "
    "it learned from, and lately in {last} %.",
    "agreement_stayed": "So far it has not come closer to the teacher: it picked the teacher's action in {first} % of "
    "the decisions at first, and lately in {last} %.",
    "score_so_far": "{game}: the last score on the way was {score}.",
    # What limits it.
    "few_games": "So few games ({episodes}) say little of how good it really is.",
    "uncertain": "The score is not certain yet: with {episodes} games the true average may be anything from {low} to "
    "{high}.",
    "worst_game": "What holds the average back most is {game}.",
    "never_learnt": "It did not learn: its error is about as large at the end as at the beginning. Often the learning "
    "rate is too high.",
    "still_learns": "It had not finished learning: its error was still falling at the end.",
    "agrees_but_fails": "It picks the teacher's action in {percent} % of the decisions that it learned from, and "
    "plays worse all the same: its rare mistakes lead it where the teacher never was, and there it does not know what "
    "to do.",
    "perhaps_too_small": "It picks the teacher's action in only {percent} % of the decisions, and its error no longer "
    "falls: a network {times} times smaller than the teacher may be too small.",
    "agreement": "It picks the teacher's action in only {percent} % of the decisions that it learned from.",
    "the_teacher": "A student is seldom better than its teacher: it learns nothing that the teacher cannot do.",
    "teacher_below_human": "In {game} the teacher itself, at {teacher}, is below a human tester, who scored {human}.",
    "teacher_is_random": "In {game} the teacher plays no better than chance: there is nothing to learn from it.",
    "time_stepping": "{percent} % of the training time went into the game itself (its emulator): more processor cores "
    "would help most.",
    "time_inference": "{percent} % of the training time went into deciding what to play: a faster processor or a GPU "
    "would help most.",
    "time_updates": "{percent} % of the training time went into learning (updates): a GPU, or a smaller network, "
    "would help most.",
    "time_input": "{percent} % of the training time was spent waiting for stored play: a faster disk would help most.",
    "one_seed": "This is one run. Chance has a part in it, and another one may come out better or worse.",
    "curve_rises": "It had not finished learning: its score was still rising at the end.",
    "curve_flat": "Its score no longer rose much at the end: more of the same may bring little.",
    "sweep_failed": "Students that failed: {cells}. The table says why.",
    "sweep_few_seeds": "Each recipe was tried with few seeds ({seeds}): differences may be chance.",
    "saved_updates": "What it had learned by update {step} is saved.",
    "saved_steps": "What it had learned by decision {step} is saved.",
    "nothing_saved": "Nothing was saved yet: it has to begin anew.",
    "diverged": "The usual cause is a learning rate that is too high: each correction overshoots, and the next one "
    "more.",
    # What to try next.
    "wait": "Wait until it ends, and ask again.",
    "resume": "Go on where it stopped:",
    "begin_anew": "Begin anew, with the same settings:",
    "lower_rate": "Try a learning rate ten times lower:",
    "roll_back": "Or have it go back to the last sound state by itself:",
    "use_it": "Use the student: write it as a file that runs without this program's libraries:",
    "smaller": "Try a smaller student, {network}:",
    "more_games": "Play more games, for a surer score:",
    "another_seed": "Run it once more with other random numbers, to see how much chance there is:",
    "loss_kl": "Compare the whole distribution of the teacher's preferences (KL), which has worked best for others:",
    "longer": "Let it learn for longer:",
    "dagger": "Let the student play a part of the time itself, so that it learns what to do after its own mistakes:",
    "larger": "Try a larger student, {network}:",
    "wider": "Try a larger student, with layers of twice the width:",
    "train_longer": "Train it for longer:",
    "distil_it": "Have a smaller network learn from it:",
    "sweep_report": "See all numbers in one report:",
}
