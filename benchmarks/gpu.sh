#!/usr/bin/env bash
# Everything that needs a GPU, in one go of at most 9 minutes: CUDA tests, speed of training and reading, and what time is
# left for a training command. Results of parts that ran stay when another part fails or runs out of time.
#
#   bash benchmarks/gpu.sh [--device cuda|cpu] [--out FOLDER] [--minutes N] [--dry-run] [-- TRAINING COMMAND ...]
#
# --device cpu rehearses it in small (two minutes on two calm cores); --dry-run prints each part: name, seconds, command.
# It needs no network: a machine without the packages is told which to bring, before anything is run. PYTHON names the
# interpreter. FOLDER (default: $OUT, else gpu-results) gets results.json, table.txt and parts.log.
set -u
cd "$(dirname "$0")/.." || exit 2
device=cuda out=${OUT:-gpu-results} minutes=9 dry=
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --minutes) minutes=$2; shift 2 ;;
    --dry-run) dry=yes; shift ;;
    --) shift; break ;;
    *) echo "gpu.sh: $1 is no option of it; its first lines list them" >&2; exit 2 ;;
  esac
done
case $device in cuda | cpu) ;; *) echo "gpu.sh: --device is $device; allowed: cuda, cpu" >&2; exit 2 ;; esac

python=${PYTHON:-python3}
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} TQDM_DISABLE=1
began=$SECONDS
left() { echo "$(awk "BEGIN { print int($minutes * 60 - 10 - $SECONDS + $began) }")"; }

if [ "$device" = cuda ]; then
  full="--batch 32 --seconds 12" tests=170 speed=80
else
  export CUDA_VISIBLE_DEVICES= CXRLINES_REHEARSE=1 OMP_NUM_THREADS=1
  tests=240 speed=120
fi

if [ -z "$dry" ]; then
  # The packages that pyproject.toml asks for, those of training as well, and pytest for the tests.
  "$python" - "$device" <<'PYTHON' || exit 3
import re, sys, tomllib
from importlib.metadata import PackageNotFoundError, version
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
tests = [line for line in project["optional-dependencies"]["dev"] if re.match(r"pytest(-timeout)?[>=]", line)]
tests += [line for line in project["optional-dependencies"]["dev"] if re.match(r"scikit-learn|hypothesis", line)]
def numbers(text):
    return [int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3]]
missing = []
for wanted in project["dependencies"] + project["optional-dependencies"]["train"] + tests:
    name, least = re.match(r"([\w-]+)[^>=<]*(?:[>=]=([\d.]+))?", wanted).groups()
    try:
        if least and numbers(version(name)) < numbers(least):
            missing.append(f"{wanted}  (here: {version(name)})")
    except PackageNotFoundError:
        missing.append(wanted)
if missing:
    print("gpu.sh: this Python lacks packages. Bring them as wheels (pip download -d wheels NAME..., then")
    print("pip install --no-index --find-links wheels NAME...):", *missing, sep="\n  ")
    sys.exit(1)
import torch
if sys.argv[1] == "cuda" and not torch.cuda.is_available():
    print(f"gpu.sh: PyTorch {torch.__version__} sees no CUDA GPU; --device cpu rehearses without one")
    sys.exit(1)
PYTHON
  mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  : > "$out/parts.log"
  : > "$work/parts.tsv"
fi

part() {  # NAME SECONDS COMMAND...: runs it, at most so long, and records how it ended
  local name=$1 limit=$2 start code
  shift 2
  [ -z "$dry" ] || { echo "$name $limit $*"; return; }
  [ "$limit" -le "$(left)" ] || limit=$(left)
  if [ "$limit" -lt 5 ]; then
    printf '%s\t%s\t%s\n' "$name" "no time left" 0 >> "$work/parts.tsv"
    collect
    return
  fi
  start=$SECONDS
  timeout --kill-after=5 "$limit" "$@" > "$work/$name.out" 2> "$work/$name.err"
  code=$?
  printf '%s\t%s\t%s\n' "$name" "$code" "$((SECONDS - start))" >> "$work/parts.tsv"
  { echo "== $name: $* (exit code $code)"; tail -n 60 "$work/$name.out" "$work/$name.err"; } >> "$out/parts.log"
  echo "$name: exit code $code after $((SECONDS - start)) s"
  collect
}

collect() {  # results.json and table.txt of the parts so far
  "$python" - "$work" "$out" "$device" <<'PYTHON'
import json, sys
from pathlib import Path
work, out = Path(sys.argv[1]), Path(sys.argv[2])
WANTED = {"share_of_peak": (0.40, max), "waits_for_films": (0.05, min), "speedup": (3.4, max)}
parts, table = {}, []
for line in (work / "parts.tsv").read_text().splitlines():
    name, code, seconds = line.split("\t")
    text = (work / f"{name}.out").read_text(errors="replace").strip() if (work / f"{name}.out").exists() else ""
    last = text.splitlines()[-1] if text else ""
    try:
        figures = json.loads(last)
    except ValueError:
        figures = {"says": last}
    how = {"0": "done", "124": "out of time", "137": "out of time"}.get(code, code if " " in code else f"exit code {code}")
    parts[name] = {"ended": how, "seconds": int(seconds), "figures": figures}
    table.append(f"{name:<16}{how:<14}{seconds:>5} s")
    for figure, value in figures.items() if isinstance(figures, dict) else ():
        row = f"    {figure:<22}{value}"
        if figure in WANTED and isinstance(value, int | float):
            least, better = WANTED[figure]
            row += f"  (wanted {'at least' if better is max else 'at most'} {least:g}: {'yes' if better(value, least) == value else 'no'})"
        table.append(row)
(out / "results.json").write_text(json.dumps({"device": sys.argv[3], "parts": parts}, indent=1) + "\n")
(out / "table.txt").write_text("\n".join(table) + "\n")
PYTHON
}

part machine 60 "$python" -c 'import json, torch, cxrlines; print(json.dumps({"torch": torch.__version__, "cxrlines": cxrlines.__version__, "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}))'
part tests $tests "$python" -m pytest -p no:cacheprovider -m gpu tests/training/test_cuda.py
if [ "$device" = cuda ]; then
  # shellcheck disable=SC2086
  part train-512 $speed "$python" -m cxrlines bench train --backbone resnet200d --size 512 $full --json
  # shellcheck disable=SC2086
  part train-640 $speed "$python" -m cxrlines bench train --backbone resnet200d --size 640 $full --json
  part predict 80 "$python" -m cxrlines bench predict --films 12 --json
else
  part train-64 $speed "$python" -m cxrlines bench train --backbone resnet10t --size 64 --batch 4 --seconds 1 --json
  part predict 100 "$python" -m cxrlines bench predict --films 2 --json
fi
[ $# -eq 0 ] || part training "$([ -n "$dry" ] && echo rest || left)" "$@"
[ -n "$dry" ] || { cat "$out/table.txt"; ! grep -qv $'\t0\t' "$work/parts.tsv"; }
