// Package filter turns the filter flags into one Filter. It splits the choice in two:
// Kernel is what the kernel decides, before anything is copied; the Match methods
// decide everything, so what the kernel could not decide (or did not, for a socket
// whose owner it did not know yet) is decided here.
//
// Match methods may be called from several goroutines.
package filter
