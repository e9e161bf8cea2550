package unwind

import (
	"errors"
	"fmt"
	"math"
)

// ErrLimit is wrapped by every error that says a file is larger than we are ready to
// work on. The message names the limit.
var ErrLimit = errors.New("over the limit")

// What a file may have. The right column is the largest seen among 40 objects of a
// development machine (Node 20, OpenJDK 25, LLVM 14, rustc 1.95, Go 1.26).
const (
	maxFileSize = math.MaxUint32 // offsets in rows have 32 bits; 158 MB
	maxProgs    = 128            // program headers; 14
	maxSections = 8192           // 45
	maxNames    = 1 << 20        // bytes of section names; 500
	maxDynamic  = 64 << 10       // bytes of .dynamic; 1 kB
	// A byte of .eh_frame can become 7 bytes of the extractor's own rows.
	maxFrameSection = 32 << 20 // bytes of .eh_frame and of .debug_frame; 6.4 MB
	maxPclntab      = 64 << 20 // bytes of .gopclntab; 4.9 MB
	maxRows         = 4 << 20  // 8 bytes each, locked in the kernel; 1.06 million
	// maxFileRules keeps one file from filling the list that all files share.
	maxFileRules = 2048 // 762
)

// limit says that there is too much of something.
func limit(what string, most int) error {
	return fmt.Errorf("%s: %w of %d", what, ErrLimit, most)
}
