package unwind

import (
	"errors"
	"fmt"
	"math"
)

// ErrLimit is wrapped by every error that says a file is larger than we are ready to
// work on. The message names the limit.
var ErrLimit = errors.New("over the limit")

// What a file may have. On the right the largest among the 1,180 objects of a development
// machine (LLVM 22, rustc 1.95, Node 20, OpenJDK 25, golangci-lint).
const (
	maxFileSize = math.MaxUint32 // offsets in rows have 32 bits; 200 MB
	maxProgs    = 128            // program headers; 14
	maxSections = 8192           // 64
	maxNames    = 1 << 20        // bytes of section names; below 1 kB
	maxDynamic  = 64 << 10       // bytes of .dynamic; below 2 kB
	// A byte of .eh_frame can become 7 bytes of the library's own rows.
	maxFrameSection = 24 << 20 // bytes of .eh_frame and of .debug_frame; 7.7 MB
	maxPclntab      = 64 << 20 // bytes of .gopclntab; 13.6 MB
	maxRows         = 4 << 20  // 8 bytes each, locked in the kernel; 1.2 million
	// maxFileRules keeps one file from filling the list that all files share.
	maxFileRules = 2048 // 866
)

// limit says that there is too much of something.
func limit(what string, most int) error {
	return fmt.Errorf("%s: %w of %d", what, ErrLimit, most)
}
