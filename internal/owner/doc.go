// Package owner joins sockets with the processes that hold them, and says who those
// processes are. The joining is pure; only Resolver and HostPidNS read /proc.
package owner
