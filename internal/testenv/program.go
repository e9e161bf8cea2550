package testenv

import (
	"os"
	"syscall"
)

// WriteProgram makes a program that can be started at once. A child forked while the file is open
// to be written would keep it so until its exec(), and until then nobody can start it: text file
// busy.
func WriteProgram(path string, content []byte) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, content, 0o755)
}
