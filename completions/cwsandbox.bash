# bash completion of cwsandbox
_cwsandbox_ids() {
  local i url=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [[ ${COMP_WORDS[i]} == --base-url ]]; then url=(--base-url "$(_cwsandbox_word $((i + 1)))"); fi
  done
  "${COMP_WORDS[0]}" "${url[@]}" ls "$@" --output ids 2>/dev/null </dev/null
}

# A word as it was typed: readline splits at ':' and '='.
_cwsandbox_word() {
  local i=$1 word=
  while [[ $i -lt $COMP_CWORD && ${COMP_WORDS[i]} != -* ]]; do
    word+=${COMP_WORDS[i]}
    [[ ${COMP_WORDS[i]} == *: || ${COMP_WORDS[i + 1]-} == : ]] || break
    i=$((i + 1))
  done
  printf '%s' "$word"
}

_cwsandbox() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command= i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      --)
        # What follows is a command of the sandbox's; its files are not ours.
        COMPREPLY=($(compgen -f -- "$cur"))
        return
        ;;
      --base-url) i=$((i + 1)) ;;
      run | exec | sh | logs | ls | get | stop | delete | cp | completion) [[ -n $command ]] || command=${COMP_WORDS[i]} ;;
    esac
  done
  case $prev in
    -o | --output)
      local formats="text json"
      if [[ $command == ls ]]; then formats="table json ids"; fi
      COMPREPLY=($(compgen -W "$formats" -- "$cur"))
      return
      ;;
    --status)
      COMPREPLY=($(compgen -W "pending creating running paused terminating completed failed terminated" -- "$cur"))
      return
      ;;
    -n) if [[ $command == logs ]]; then return; fi ;;  # elsewhere it takes no value
    --base-url | --image | --tag | --timeout | --drain | --resume-grace | --escape-char | --tail | --since | --grace | -e | --env | -C | --cwd) return ;;
  esac
  if [[ $cur == -* ]]; then
    local options="--help --base-url"
    case $command in
      '') options+=" --version" ;;
      run) options+=" --detach --image --tag --env --cwd --resume-grace --timeout --drain --stdin --no-stdin --tty --escape-char --output --" ;;
      exec) options+=" --env --cwd --resume-grace --timeout --drain --stdin --no-stdin --tty --escape-char --output --" ;;
      sh) options+=" --image --tag --env --cwd --resume-grace --escape-char --output --" ;;
      logs) options+=" --follow --tail --since --timestamps --output" ;;
      ls) options+=" --all --tag --status --output" ;;
      get) options+=" --output" ;;
      stop) options+=" --grace --output" ;;
      delete) options+=" --missing-ok --output" ;;
      cp) options+=" --recursive --preserve --no-clobber --quiet --output" ;;
      completion) options="--help" ;;
    esac
    COMPREPLY=($(compgen -W "$options" -- "$cur"))
    return
  fi
  case $command in
    '') COMPREPLY=($(compgen -W "run exec sh logs ls get stop delete cp completion" -- "$cur")) ;;
    exec | sh | stop | delete) COMPREPLY=($(compgen -W "$(_cwsandbox_ids)" -- "$cur")) ;;
    logs | get) COMPREPLY=($(compgen -W "$(_cwsandbox_ids --all)" -- "$cur")) ;;
    cp)
      COMPREPLY=($(compgen -f -- "$cur"))
      if [[ $cur != */* && $cur != *:* ]]; then COMPREPLY+=($(compgen -S : -W "$(_cwsandbox_ids)" -- "$cur")); fi
      compopt -o nospace 2>/dev/null
      ;;
    completion) COMPREPLY=($(compgen -W "bash zsh" -- "$cur")) ;;
  esac
}
complete -o filenames -F _cwsandbox cwsandbox
