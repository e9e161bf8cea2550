/*
 * Closes each connection from code that it writes into anonymous memory, as JIT
 * compilers do. The code keeps a frame pointer. It prints "ADDRESS SIZE" of the code, as
 * perf-PID.map has them.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

/* push %rbp; mov %rsp,%rbp; call *%rdi; pop %rbp; ret */
static const unsigned char code[] = { 0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3 };

static volatile int conn, work;

NOINLINE void drop_client(void)
{
	close(conn);
	work++;
}

NOINLINE void serve_one(int listener, void (*jitted)(void (*)(void)))
{
	char byte;

	conn = accept(listener, NULL, NULL);
	while (recv(conn, &byte, 1, 0) > 0)
		work++;
	jitted(drop_client);
	work++;
}

int main(int argc, char **argv)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	void *p = mmap(NULL, sizeof(code), PROT_READ | PROT_WRITE | PROT_EXEC,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (argc < 2 || p == MAP_FAILED)
		return 2;
	memcpy(p, code, sizeof(code));
	printf("%lx %lx\n", (unsigned long)p, sizeof(code));
	fflush(stdout);
	addr.sin_port = htons(atoi(argv[1]));
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(listener, (void *)&addr, sizeof(addr)) || listen(listener, 128)) {
		perror("listen");
		return 1;
	}
	for (;;)
		serve_one(listener, (void (*)(void (*)(void)))p);
}
