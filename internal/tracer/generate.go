package tracer

//go:generate go tool bpf2go -cc clang-14 -target bpfel -cflags "-O2 -g -Wall -Werror" -type flow -type handled -type task -type mapping -type frame -type code_heap -type transition -type socket_row -type socket_more -type holding_row -type holder_row -type listening_row -type passed_row -type relative -type kin -type stack -type raw_stack -type life -type mapping_row -type runtime -type rule -type file_key -type unwinding -type counter -type evidence -type bound -type direction -type tcp_state bpf ../../bpf/tcpwaitd.bpf.c -- -I../../bpf -I/usr/include/x86_64-linux-gnu
