package record

import (
	"slices"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// Doctor says whether tcpwaitd can run here, and how.
type Doctor struct {
	Head
	OK     bool         `json:"ok"`
	Kernel string       `json:"kernel"`
	Arch   string       `json:"arch"`
	Checks []Check      `json:"checks"`
	Hooks  []event.Hook `json:"hooks"`
	// MisleadingSysctls are settings people turn to against CLOSE_WAIT or TIME_WAIT; those that
	// somebody has changed are marked.
	MisleadingSysctls []Sysctl `json:"misleading_sysctls"`
}

// Check is one thing that must hold, and its cure where it does not.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Cure   string `json:"cure,omitempty"`
}

// Sysctl is one kernel setting and what to know about it.
type Sysctl struct {
	Name string `json:"name"`
	// Value is that of the host's network namespace; of a setting the kernel has no more, what
	// Files say.
	Value string `json:"value"`
	// Default is the kernel's, absent if not known.
	Default string `json:"default,omitempty"`
	// Changed: not the default, in the direction that misleads. False where the default is not
	// known.
	Changed bool `json:"changed"`
	// NamespacesChanged is in how many network namespaces it is, the host's included.
	NamespacesChanged int `json:"namespaces_changed"`
	// Files set it although the kernel has it no more.
	Files []string `json:"files,omitempty"`
	Note  string   `json:"note"`
}

// NewDoctor builds the record; it is ok when every check is.
func NewDoctor(kernel, arch string, checks []Check, hooks []event.Hook, sysctls []Sysctl) Doctor {
	bad := slices.ContainsFunc(checks, func(c Check) bool { return !c.OK })
	return Doctor{
		Head: head(KindDoctor), OK: !bad, Kernel: kernel, Arch: arch,
		Checks: orEmpty(checks), Hooks: orEmpty(hooks), MisleadingSysctls: orEmpty(sysctls),
	}
}

// orEmpty makes the list [] and not null in JSON.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
