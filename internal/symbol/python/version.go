package python

import "fmt"

// version is PY_VERSION_HEX: major, minor, micro, level and serial.
type version uint32

// Release levels, as in patchlevel.h.
const (
	levelCandidate = 0xC
	levelFinal     = 0xF
)

func (v version) major() int { return int(v >> 24) }
func (v version) minor() int { return int(v >> 16 & 0xff) }

// stable reports whether this is a release, or a candidate for one: the structures of alphas
// and betas are not those of the release.
func (v version) stable() bool {
	level := v >> 4 & 0xf
	return level == levelFinal || level == levelCandidate
}

func (v version) String() string {
	s := fmt.Sprintf("%d.%d.%d", v.major(), v.minor(), v>>8&0xff)
	switch v >> 4 & 0xf {
	case levelFinal:
		return s
	case levelCandidate:
		return fmt.Sprintf("%src%d", s, v&0xf)
	default:
		return s + " before release"
	}
}
