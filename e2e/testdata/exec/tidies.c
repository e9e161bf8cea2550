/*
 * tidies [late]: accepts 23 connections, one after the other, whose clients leave, is told of each
 * end, and keeps the sockets. A destructor closes them in exit(); late: main() does at its end.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define N 23

static int kept[N], n;

__attribute__((noinline)) static void close_all(void)
{
	while (n > 0)
		close(kept[--n]);
}

__attribute__((destructor)) static void at_end(void)
{
	close_all();
}

int main(int argc, char **argv)
{
	struct sockaddr_in addr = {.sin_family = AF_INET};
	socklen_t len = sizeof(addr);
	int listener = socket(AF_INET, SOCK_STREAM, 0), client;
	char b[10];

	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(listener, (struct sockaddr *)&addr, len) ||
	    listen(listener, N) ||
	    getsockname(listener, (struct sockaddr *)&addr, &len))
		return 1;
	while (n < N) {
		client = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(client, (struct sockaddr *)&addr, len))
			return 1;
		kept[n] = accept(listener, NULL, NULL);
		close(client);
		while (read(kept[n], b, sizeof(b)) > 0)
			;
		n++;
	}
	usleep(700000);
	if (argc > 1)
		close_all();
	return 0;
}
