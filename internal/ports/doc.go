// Package ports knows who closes connections first, how many local ports are left to each
// destination, when they run out, and what would help. It is pure: facts in, judgement out.
//
// How the kernel gives ports out (net/ipv4/inet_hashtables.c __inet_hash_connect,
// net/ipv4/inet_connection_sock.c inet_csk_get_port, net/ipv4/tcp_ipv4.c tcp_twsk_unique):
//
//   - connect() without bind() uses each port of net.ipv4.ip_local_port_range once for each
//     (local address, remote address, remote port). It prefers one parity but uses all.
//   - It does not use a port that bind() or listen() has taken, whatever the addresses.
//   - bind(addr, 0) takes a port that no other socket of addr has, to whatever destination.
//     Unless IP_BIND_ADDRESS_NO_PORT is set: then connect() chooses, as without bind().
//   - A socket in TIME_WAIT keeps its port for 60 s, unless net.ipv4.tcp_tw_reuse lets
//     connect() take it over.
//   - Accepted sockets share the port of their listener and use none up.
package ports
