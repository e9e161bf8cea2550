/*
 * Three threads map and unmap memory without a pause, so that the lock of the address
 * space is nearly always taken for writing, while the main thread serves.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

enum { THREADS = 3, SIZE = 64 << 10, PAGE = 4 << 10 };

static volatile int work;

static void *remap(void *arg)
{
	for (;;) {
		char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			return arg;
		for (int i = 0; i < SIZE; i += PAGE)
			p[i] = 1;
		munmap(p, SIZE);
	}
}

NOINLINE void do_close(int conn)
{
	close(conn);
	work++;
}

NOINLINE void serve_one(int listener)
{
	int conn = accept(listener, NULL, NULL);
	char byte;

	while (recv(conn, &byte, 1, 0) > 0)
		work++;
	do_close(conn);
	work++;
}

int main(int argc, char **argv)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	pthread_t thread;

	if (argc < 2)
		return 2;
	addr.sin_port = htons(atoi(argv[1]));
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&thread, NULL, remap, NULL))
			return 1;
	if (bind(listener, (void *)&addr, sizeof(addr)) || listen(listener, 128)) {
		perror("listen");
		return 1;
	}
	for (;;)
		serve_one(listener);
}
