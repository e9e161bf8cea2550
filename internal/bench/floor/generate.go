package floor

//go:generate go tool bpf2go -cc clang-14 -target bpfel -cflags "-O2 -g -Wall -Werror" -type floor_event -type floor_row bpf ../../../bpf/bench/bench.bpf.c -- -I../../../bpf -I/usr/include/x86_64-linux-gnu
