package symbol

import (
	"errors"
	"fmt"
	"os"
	"path"
)

// Where distributions put debug files, relative to the root.
const (
	debugDir   = "/usr/lib/debug"
	buildIDDir = debugDir + "/.build-id"
	debugExt   = ".debug"
)

var errBuildID = errors.New("belongs to another build")

// debugInfo is what a separate debug file adds to an object. Either part may be nil.
type debugInfo struct {
	functions *table
	lines     *lineTable
}

func (d *debugInfo) bytes() int64 {
	var n int64
	if d.functions != nil {
		n += d.functions.bytes()
	}
	if d.lines != nil {
		n += d.lines.bytes()
	}
	return n
}

// debugPaths is where the debug file of an object can be, best first: object is the path
// of the object as its process sees it, "" if that is not to be looked at.
func debugPaths(buildID, link, object string) []string {
	paths := []string{buildIDDir + "/" + buildID[:2] + "/" + buildID[2:] + debugExt}
	if link == "" || path.Base(link) != link || !path.IsAbs(object) {
		return paths
	}
	dir := path.Dir(object)
	return append(paths, path.Join(dir, link), path.Join(dir, ".debug", link), path.Join(debugDir, dir, link))
}

// searchDebug looks below a root for the debug file of an object that is at a path there.
func searchDebug(r *root, f *elfFile, object string, lines bool) (*debugInfo, error) {
	if f.buildID == "" {
		return nil, fmt.Errorf("find debug file: no build id: %w", errBuildID)
	}
	var errs []error
	for _, p := range debugPaths(f.buildID, f.debugLink(), object) {
		file, err := r.open(p, 0)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		info, err := readDebug(file, f, lines)
		_ = file.Close()
		if err == nil {
			return info, nil
		}
		errs = append(errs, fmt.Errorf("read %s: %w", p, err))
	}
	return nil, errors.Join(errs...)
}

// readDebug reads the debug file of the object of. The file can be closed afterwards.
func readDebug(file *os.File, of *elfFile, lines bool) (*debugInfo, error) {
	size, err := fileSize(file)
	if err != nil {
		return nil, err
	}
	f, err := parseELF(file, size)
	if err != nil {
		return nil, err
	}
	if f.buildID != of.buildID {
		return nil, fmt.Errorf("build id %q: %w", f.buildID, errBuildID)
	}
	info := &debugInfo{}
	if info.functions, err = readTable(f, ".symtab"); err == nil {
		err = info.functions.keep()
	}
	if err != nil {
		info.functions = nil
	}
	if lines {
		var lineErr error
		if info.lines, lineErr = readLines(f, of.executable); lineErr != nil {
			err = errors.Join(err, lineErr)
			info.lines = nil
		}
	}
	if info.functions == nil && info.lines == nil {
		return nil, err
	}
	return info, nil
}

func fileSize(file *os.File) (uint64, error) {
	st, err := file.Stat()
	if err != nil {
		return 0, fmt.Errorf("stat: %w", err)
	}
	if !st.Mode().IsRegular() {
		return 0, errNotRegular
	}
	return uint64(st.Size()), nil
}
