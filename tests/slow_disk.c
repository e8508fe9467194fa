/* Preloaded into a process: fsync and fdatasync first wait as many milliseconds as the file SLOW_DISK says. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void wait_as_said(void) {
    const char *name = getenv("SLOW_DISK");
    FILE *file = name ? fopen(name, "re") : NULL;
    int milliseconds = 0;
    if (!file) return;
    if (fscanf(file, "%d", &milliseconds) != 1) milliseconds = 0;
    fclose(file);
    struct timespec left = {milliseconds / 1000, (milliseconds % 1000) * 1000000L};
    while (nanosleep(&left, &left) != 0) {}
}

int fsync(int descriptor) {
    wait_as_said();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(descriptor);
}

int fdatasync(int descriptor) {
    wait_as_said();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(descriptor);
}
