// The first process of every pod: it holds the pod's namespaces and sleeps until it is told to end.
#include <signal.h>
#include <unistd.h>

static void end(int signal) { _exit(128 + signal); }

int main(void) {
	signal(SIGTERM, end);
	signal(SIGINT, end);
	signal(SIGCHLD, SIG_IGN); // processes that the pod's containers leave behind are reaped
	for (;;)
		pause();
}
