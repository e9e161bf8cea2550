package testenv

import (
	"encoding/binary"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// BoundInactive counts the sockets of IPv4 that are merely bound. It asks the kernel as
// ss --bound-inactive does; 0 before 6.8, which does not know the state.
func BoundInactive(tb testing.TB, ns *Netns) (found int) {
	tb.Helper()
	// struct nlmsghdr with NLM_F_REQUEST and NLM_F_DUMP, struct inet_diag_req_v2.
	const sockDiagByFamily, headerSize, requestSize = 20, 16, 56
	ask := make([]byte, headerSize+requestSize)
	binary.NativeEndian.PutUint32(ask, uint32(len(ask)))
	binary.NativeEndian.PutUint16(ask[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(ask[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	ask[headerSize], ask[headerSize+1] = unix.AF_INET, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(ask[headerSize+4:], uint32(event.SetOf(event.BoundInactive)))
	err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Sendto(fd, ask, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		for buf := make([]byte, 64<<10); ; {
			size, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				return err
			}
			messages, err := syscall.ParseNetlinkMessage(buf[:size])
			if err != nil {
				return err
			}
			for _, m := range messages {
				if m.Header.Type != sockDiagByFamily {
					return nil
				}
				found++
			}
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
	return found
}
