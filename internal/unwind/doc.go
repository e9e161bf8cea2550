// Package unwind knows how to walk a stack without frame pointers. It builds the unwind
// tables of ELF files (Read), which the kernel side walks by, and walks a copied stack
// by the same tables and the same rules itself (Unwinder), where the kernel side had no
// table yet or where a guess is needed.
//
// Files, memory and stacks are foreign: what is wrong with them costs frames, never more
// than a bounded amount of time and memory.
package unwind
