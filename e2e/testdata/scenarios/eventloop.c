/*
 * An event loop that answers a line and closes. After half a request it takes the socket
 * out of the loop, to put it back when the rest comes, and never does: eventloop PORT
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

static volatile int work;

NOINLINE void on_readable(int poll, int conn)
{
	char buf[512];
	long n = read(conn, buf, sizeof(buf));

	work++;
	if (n > 0 && !memchr(buf, '\n', n)) {
		epoll_ctl(poll, EPOLL_CTL_DEL, conn, NULL);
		return;
	}
	if (n > 0 && write(conn, "ok\n", 3) < 0)
		perror("write");
	close(conn);
}

int main(int argc, char **argv)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	int listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0);
	struct epoll_event event = { .events = EPOLLIN, .data.fd = listener };

	if (argc < 2)
		return 2;
	addr.sin_port = htons(atoi(argv[1]));
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(listener, (void *)&addr, sizeof(addr)) || listen(listener, 128)) {
		perror("listen");
		return 1;
	}
	epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
	while (epoll_wait(poll, &event, 1, -1) == 1) {
		if (event.data.fd == listener) {
			event.events = EPOLLIN;
			event.data.fd = accept(listener, NULL, NULL);
			epoll_ctl(poll, EPOLL_CTL_ADD, event.data.fd, &event);
			continue;
		}
		on_readable(poll, event.data.fd);
	}
	return 1;
}
