// Cgodial connects from C, called from Go: to the port in each line of its input.
package main

/*
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

static __attribute__((noinline)) int c_inner(int port)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	int conn = socket(AF_INET, SOCK_STREAM, 0);
	int result;

	addr.sin_port = htons(port);
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	result = connect(conn, (struct sockaddr *)&addr, sizeof(addr));
	close(conn);
	return result + 1;
}

__attribute__((noinline)) int c_dial(int port)
{
	int result = c_inner(port);

	return result * 2;
}
*/
import "C"

import "fmt"

//go:noinline
func dialViaC(port int) int { return int(C.c_dial(C.int(port))) + 1 }

//go:noinline
func worker(ports <-chan int) {
	for port := range ports {
		dialViaC(port)
	}
}

func main() {
	ports := make(chan int)
	go worker(ports)
	for {
		var port int
		if _, err := fmt.Scanln(&port); err != nil {
			return
		}
		ports <- port
	}
}
