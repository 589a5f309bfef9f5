// The first process of each pod: it keeps the namespaces of the pod and sleeps until it gets a signal.
#include <signal.h>
#include <unistd.h>

static void end(int signal) { _exit(128 + signal); }

int main(void) {
	signal(SIGTERM, end);
	signal(SIGINT, end);
	signal(SIGCHLD, SIG_IGN); // reaps orphaned processes of the pod
	for (;;)
		pause();
}
