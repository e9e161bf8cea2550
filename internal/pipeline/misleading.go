package pipeline

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tcpwaitd/tcpwaitd/internal/netns"
	"github.com/tcpwaitd/tcpwaitd/internal/ports"
	"github.com/tcpwaitd/tcpwaitd/internal/record"
)

// misleadingSysctls are the settings people turn to against CLOSE_WAIT and TIME_WAIT, as they
// are in the host's network namespace, and in how many namespaces somebody has changed them.
func (e *Engine) misleadingSysctls() []record.Sysctl {
	list, err := netns.List(e.cfg.Proc)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		e.log.Warn("network namespaces cannot be listed: their settings are not known", "error", err)
	}
	settings := ports.MisleadingSettings()
	found := make([]record.Sysctl, len(settings))
	for i, m := range settings {
		found[i] = record.Sysctl{Name: m.Name, Note: m.Note}
		if m.Gone {
			found[i].Value, found[i].Files = e.setInFiles(m.Name)
			found[i].Changed = len(found[i].Files) > 0
		}
	}
	// The host's is the first.
	for i, ns := range list {
		err := ns.Do(func() error { e.compareSysctls(settings, found, i == 0); return nil })
		if err != nil && !errors.Is(err, netns.ErrGone) {
			e.log.Warn("settings of a network namespace are not known", "netns", ns.Inode, "error", err)
		}
	}
	return slices.DeleteFunc(found, func(s record.Sysctl) bool { return s.Value == "" })
}

// compareSysctls looks at the namespace of the calling thread.
func (e *Engine) compareSysctls(settings []ports.Misleading, found []record.Sysctl, host bool) {
	for i := range settings {
		m := &settings[i]
		value, ok := e.sysctl(m.Name)
		if m.Gone || !ok {
			continue
		}
		standard := m.DefaultOf(e.sysctl)
		set := m.Set(value, standard)
		if set {
			found[i].NamespacesChanged++
		}
		if host {
			found[i].Value, found[i].Default, found[i].Changed = value, standard, set
		}
	}
}

// sysctl reads a setting in the namespace of the calling thread. What cannot be read is left
// out: kernels differ in what they have.
func (e *Engine) sysctl(name string) (string, bool) {
	text, err := os.ReadFile(filepath.Join(e.cfg.Proc, "sys", strings.ReplaceAll(name, ".", "/")))
	return strings.TrimSpace(string(text)), err == nil
}

// setInFiles finds a setting in the host's sysctl.conf(5) files, with the value of the last.
func (e *Engine) setInFiles(name string) (value string, files []string) {
	host := filepath.Join(e.cfg.Proc, "1", "root")
	for _, pattern := range []string{"usr/lib/sysctl.d/*.conf", "run/sysctl.d/*.conf", "etc/sysctl.d/*.conf", "etc/sysctl.conf"} {
		// The pattern is well-formed.
		paths, _ := filepath.Glob(filepath.Join(host, pattern))
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				continue
			}
			if set, ok := setIn(string(text), name); ok {
				value = set
				files = append(files, record.Escape(strings.TrimPrefix(path, host)))
			}
		}
	}
	return record.Escape(value), files
}

// setIn is what the text of a sysctl.conf(5) file sets the name to, at last.
func setIn(text, name string) (value string, ok bool) {
	for line := range strings.Lines(text) {
		key, set, assigns := strings.Cut(line, "=")
		key = strings.ReplaceAll(strings.TrimLeft(strings.TrimSpace(key), "-"), "/", ".")
		if assigns && key == name {
			value, ok = strings.TrimSpace(set), true
		}
	}
	return value, ok
}
