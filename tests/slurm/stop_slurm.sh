#!/usr/bin/env bash
# stop_slurm.sh [--purge]: ends the daemons that start_slurm.sh started, by the pids that it wrote. --purge also removes
# their configuration. Without it, Snakemake's plugin does not search for a controller.
LAB=${SLURM_LAB:-/run/slurmlab}
up() { grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/status"; }   # a zombie is not up
stop() {
  local f=$1 p; [ -s "$f" ] || return 0
  p=$(cat "$f"); kill "$p" 2>/dev/null
  for _ in $(seq 100); do up "$p" || break; sleep 0.1; done
  up "$p" && kill -9 "$p"
  rm -f "$f"; echo "stopped $(basename "$f" .pid) ($p)"
}
[ -s "$LAB/slurmctld.pid" ] && scancel -u "$(id -un)" 2>/dev/null && sleep 1
stop "$LAB/slurmctld.pid"
for f in "$LAB"/slurmd.*.pid; do stop "$f"; done
stop "$LAB/munged.pid"
[ "${1:-}" = --purge ] && { rm -rf "$LAB" /dev/slurmlab_gpu*; for f in slurm gres cgroup; do rm -f /etc/slurm/$f.conf; done; }
exit 0
