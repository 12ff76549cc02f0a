"""What bash, zsh and fish are told to complete, as scripts of theirs.

A script holds all there is to know: commands, options, choices, and the names of teachers, games and settings files. So
no Python is started when a key is pressed, and a script is of the version that printed it.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence

from pd_jax.config.commands import TABLE, Command, CommandGroup
from pd_jax.config.fields import Field, fields
from pd_jax.config.shipped import names_for, shipped
from pd_jax.environments.tasks import TASKS
from pd_jax.system import own_modules
from pd_jax.teachers.catalogue import bundled_files

_TEACHERS = frozenset(["teacher", "teachers", "policy", "name_or_file"])
_SETTINGS = ("configs", "name")
"""The command and the setting that is the name of a settings file, whatever that is for."""


@dataclasses.dataclass(frozen=True)
class Values:
    """What may stand after an option, or without one.

    Attributes:
      words: that are known.
      files: whether it may be a file or a directory.
      many: whether several may follow one another.
    """

    words: tuple[str, ...] = ()
    files: bool = False
    many: bool = False


@dataclasses.dataclass(frozen=True)
class Line:
    """What the command line of one command may hold.

    Attributes:
      about: what the command does.
      options: by their spelling; None for a switch, after which nothing stands.
      unnamed: what it takes without an option.
    """

    about: str
    options: Mapping[str, Values | None]
    unnamed: Values | None


def lines() -> dict[str, Line]:
    """Of every command, by its name, such as ``distill`` and ``teachers show``."""
    found: dict[str, Line] = {}
    for name, entry in TABLE.items():
        of_group = entry.commands.items() if isinstance(entry, CommandGroup) else ()
        for words, command in ((f"{name} {own}", its) for own, its in of_group):
            found[words] = _line(words, command)
        if isinstance(entry, Command):
            found[name] = _line(name, entry)
    return found


def script(shell: str) -> str:
    """The script of ``bash``, ``zsh`` or ``fish``."""
    return _SCRIPTS[shell](lines())


def _line(words: str, command: Command) -> Line:
    options: dict[str, Values | None] = {"--help": None, "--config": Values(names_for(words), files=True)}
    options[own_modules.OPTION] = Values(files=True)
    unnamed: Values | None = None
    for key, field in fields(command.settings).items():
        values = _values(words, key, field)
        if field.positional:
            unnamed = values
            continue
        option = "--" + key.replace("_", "-")
        if field.kind is bool and not field.optional:
            section, dot, name = option[2:].rpartition(".")
            options |= {option: None, f"--{section}{dot}no-{name}": None}
        else:
            options[option] = values
    return Line(command.about, options, unnamed)


def _values(command: str, key: str, field: Field) -> Values:
    words = (*field.choices, *field.words)
    if (command, key) == _SETTINGS:
        words = tuple(shipped())
    elif key in _TEACHERS:
        words = tuple(bundled_files())
    elif key == "game":
        words = tuple(TASKS)
    elif field.kind is bool:
        words = ("true", "false")
    return Values(words, files=field.is_path, many=field.many)


# Of bash and zsh, which differ in how they tell what stands where and are told what may. $words holds what is given
# after the program's name, up to the word that is to be completed, which is $cur.
_FIND = """\
  local command="" group="" option="" count=0 word
  local known="" files="" many="" options="" names=""
  for word in "${words[@]}"; do
    case "$word" in
      =) ;;
      --*) option="${word%%=*}" count=0 ;;
      *)
        if [[ -z $command && -z $option ]]; then
          case "$group$word" in
@GROUPS@
            *) command="$group$word" ;;
          esac
        else
          count=$((count + 1))
        fi ;;
    esac
  done
  command="${command:-${group}}"
  case "$command" in
@OPTIONS@
  esac
  case "$command $option" in
@VALUES@
    *) option="" ;;
  esac
  # After an option's one value, what needs no option may stand.
  if [[ -n $option && -z $many && $count -gt 0 ]]; then option=""; fi
  if [[ -z $option ]]; then
    known="" files="" many=""
    case "$command" in
@UNNAMED@
    esac
  fi
"""

_BASH = """\
# pd-jax completion bash > ~/.local/share/bash-completion/completions/pd-jax
_pd_jax() {
  local cur="${COMP_WORDS[COMP_CWORD]}"
  local words=("${COMP_WORDS[@]:1:COMP_CWORD-1}")
  # Bash takes the equals sign for a word.
  if [[ $cur == = ]]; then cur=""; fi
@FIND@
  COMPREPLY=()
  if [[ $cur == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
    return
  fi
  if [[ -z $command ]]; then known="$names"; fi
  mapfile -t COMPREPLY < <(compgen -W "$known" -- "$cur")
  if [[ -n $files ]]; then
    local path
    while IFS= read -r path; do COMPREPLY+=("$path"); done < <(compgen -f -- "$cur")
    compopt -o filenames 2>/dev/null
  fi
}
complete -F _pd_jax pd-jax
"""

_ZSH = """\
#compdef pd-jax
# pd-jax completion zsh > a directory of $fpath/_pd-jax
_pd_jax() {
  local cur="${words[CURRENT]}"
  local -a words=("${(@)words[2,CURRENT-1]}")
  if [[ $cur == --*=* ]]; then
    words+=("${cur%%=*}")
    compset -P '*='
    cur="${cur#*=}"
  fi
@FIND@
  if [[ $cur == -* ]]; then
    compadd -- ${=options}
    return
  fi
  if [[ -z $command ]]; then known="$names"; fi
  if [[ -n $known ]]; then compadd -- ${=known}; fi
  if [[ -n $files ]]; then _files; fi
}
# Sourced, or loaded by its name when it is first needed.
if [[ ${funcstack[1]} == _pd-jax ]]; then _pd_jax "$@"; else compdef _pd_jax pd-jax; fi
"""


def _of_bash(known: Mapping[str, Line]) -> str:
    return _BASH.replace("@FIND@", _find(known))


def _of_zsh(known: Mapping[str, Line]) -> str:
    return _ZSH.replace("@FIND@", _find(known))


def _find(known: Mapping[str, Line]) -> str:
    """The part that bash and zsh have in common."""
    groups = [
        f'            {name}) group="{name} " ;;' for name, entry in TABLE.items() if isinstance(entry, CommandGroup)
    ]
    options = [f"    {_pattern([name])}) options={_quoted(line.options)} ;;" for name, line in known.items()]
    options.append(f'    "") names={_quoted(TABLE)} options="--help --version" ;;')
    for name, entry in TABLE.items():
        if isinstance(entry, CommandGroup):
            own = _quoted(entry.commands)
            # Nothing but the group is given so far; what is named by default has its options too.
            its = known[f"{name} {entry.default}"]
            options.append(f"    '{name} ') command=\"\" names={own} options={_quoted(its.options)} ;;")
    named = {f"{name} {option}": values for name, line in known.items() for option, values in line.options.items()}
    unnamed = {name: line.unnamed for name, line in known.items()}
    texts = {"@GROUPS@": groups, "@OPTIONS@": options, "@VALUES@": _cases(named), "@UNNAMED@": _cases(unnamed)}
    text = _FIND
    for mark, rows in texts.items():
        text = text.replace(mark, "\n".join(rows))
    return text


def _cases(values: Mapping[str, Values | None]) -> Iterator[str]:
    """A branch for each kind of values, for all that have them."""
    alike: dict[Values, list[str]] = {}
    for name, its in values.items():
        if its is not None:
            alike.setdefault(its, []).append(name)
    for its, names in alike.items():
        files, many = ("1" if told else '""' for told in (its.files, its.many))
        yield f"    {_pattern(names)}) known={_quoted(its.words)} files={files} many={many} ;;"


def _pattern(names: Sequence[str]) -> str:
    return "|".join(shlex.quote(name) for name in names)


def _quoted(words: Mapping[str, object] | Sequence[str]) -> str:
    return '"' + " ".join(words) + '"'


_FISH = """\
# pd-jax completion fish > ~/.config/fish/completions/pd-jax.fish
function __pd_jax_is
    # Whether the command is this one; of a group, both words.
    set -l words (commandline -opc)[2..-1]
    set -l named (string match -v -- '-*' $words)
    set -l wanted (string split ' ' -- $argv[1])
    test (count $named) -ge (count $wanted); or return 1
    test "$named[1..$(count $wanted)]" = "$argv[1]"
end
function __pd_jax_stands_at
    # Whether exactly these words are given so far.
    set -l words (commandline -opc)[2..-1]
    test "$words" = "$argv[1]"
end
complete -c pd-jax -f
complete -c pd-jax -n '__pd_jax_stands_at ""' -l help -d 'list the commands'
complete -c pd-jax -n '__pd_jax_stands_at ""' -l version -d 'print the version'
"""


def _of_fish(known: Mapping[str, Line]) -> str:
    rows = []
    for name, entry in TABLE.items():
        rows.append(_fish("__pd_jax_stands_at ''", f"-a {name}", entry.about))
        if isinstance(entry, CommandGroup):
            rows += [_fish(f"__pd_jax_stands_at {name}", f"-a {own}", its.about) for own, its in entry.commands.items()]
    for name, line in known.items():
        is_it = f"__pd_jax_is {shlex.quote(name)}"
        if line.unnamed is not None:
            rows.append(_fish(is_it, _fish_values(line.unnamed)))
        for option, values in line.options.items():
            rows.append(_fish(is_it, f"-l {option[2:]}" + (f" -r {_fish_values(values)}" if values else "")))
    return _FISH + "".join(f"{row}\n" for row in rows)


def _fish(condition: str, what: str, about: str = "") -> str:
    described = f" -d {shlex.quote(about)}" if about else ""
    return f'complete -c pd-jax -n "{condition}" {what}{described}'


def _fish_values(values: Values) -> str:
    words = f" -a {shlex.quote(' '.join(values.words))}" if values.words else ""
    return ("-F" if values.files else "-f") + words


_SCRIPTS: Mapping[str, Callable[[Mapping[str, Line]], str]] = {"bash": _of_bash, "zsh": _of_zsh, "fish": _of_fish}
