#!/usr/bin/env bash
# Fetches Debian's CUDA 11.8 compiler (non-free: nvcc, ptxas) into a folder, to be used by kernels/check.sh and nothing
# else. Nothing is installed: a package manager would bring a driver library that has no device.
# usage: kernels/toolkit.sh folder      (about 900 MB are downloaded)
set -eu
[ $# = 1 ] || { echo "usage: kernels/toolkit.sh folder" >&2; exit 1; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/sources" "$work/lists/partial" "$work/cache/archives/partial"
sed 's/^Components: main.*/Components: main contrib non-free/' /etc/apt/sources.list.d/debian.sources >"$work/sources/non-free.sources"
cat >"$work/apt.conf" <<CONF
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$work/sources";
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
CONF
export APT_CONFIG=$work/apt.conf
apt-get update -qq
cd "$work"
apt-get download -qq nvidia-cuda-toolkit nvidia-cuda-dev libcu++-dev libcub-dev libthrust-dev
for package in *.deb; do
  # Of the libraries only headers are wanted; they are gigabytes.
  dpkg --fsys-tarfile "$package" | tar x -C "$folder" --exclude='*.a' --exclude='*.so*' --exclude='./usr/lib/x86_64-linux-gnu/stubs/*'
done
bin=$folder/usr/lib/nvidia-cuda-toolkit/bin
cat >"$folder/nvcc.sh" <<NVCC
#!/bin/sh
# nvcc with its folders spelled out; Debian's has them in /etc.
PATH="$bin:$folder/usr/bin:\$PATH" exec "$bin/nvcc" -ccbin "\${CXX:-g++}" -allow-unsupported-compiler -I"$folder/usr/include" "\$@"
NVCC
chmod +x "$folder/nvcc.sh"
echo "PTXAS=$folder/usr/bin/ptxas NVCC=$folder/nvcc.sh kernels/check.sh"
