/* Makes fsync and fdatasync take long for the files of some nodes of a local cluster, as a slow or busy disk does.

   Preloaded into every process of the cluster.  SLOWFSYNC names a directory; while it holds a file with a node's name, each
   sync of a file below nodes/NAME/ takes the milliseconds written there longer. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void delay(int descriptor)
{
	char link[64], path[4096], file[4096];
	const char *folder = getenv("SLOWFSYNC");
	long milliseconds = 0;

	if (folder == NULL)
		return;
	snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
	ssize_t length = readlink(link, path, sizeof path - 1);
	if (length < 0)
		return;
	path[length] = '\0';
	char *name = strstr(path, "/nodes/");
	if (name == NULL)
		return;
	name += strlen("/nodes/");
	name[strcspn(name, "/")] = '\0';
	snprintf(file, sizeof file, "%s/%s", folder, name);
	FILE *stream = fopen(file, "r");
	if (stream == NULL)
		return;
	if (fscanf(stream, "%ld", &milliseconds) != 1)
		milliseconds = 0;
	fclose(stream);
	struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
	while (milliseconds > 0 && nanosleep(&left, &left) != 0)
		;
}

int fsync(int descriptor)
{
	static int (*next)(int);
	if (next == NULL)
		next = (int (*)(int)) dlsym(RTLD_NEXT, "fsync");
	delay(descriptor);
	return next(descriptor);
}

int fdatasync(int descriptor)
{
	static int (*next)(int);
	if (next == NULL)
		next = (int (*)(int)) dlsym(RTLD_NEXT, "fdatasync");
	delay(descriptor);
	return next(descriptor);
}
