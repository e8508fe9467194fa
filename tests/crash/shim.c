/* Preloaded into the processes under test: counts the calls that change files below a folder, and at a chosen one fails or kills
 * the process. Steered by a control block in shared memory (tests.crash.faults); without one it does nothing.
 * It also notes what was written, named and synchronised, so that a loss of power can be acted out afterwards.
 * Not here: which call and which fault. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* The same numbers stand in tests/crash/faults.py. */
enum operation { OPEN, WRITE, FSYNC, FDATASYNC, RENAME, LINK, UNLINK, MKDIR, TRUNCATE, SEND };
enum mode { OFF, COUNT, FAIL, KILL, FAIL_FROM };

#define PATH_BYTES 512
#define ENTRIES 65536

struct entry {
    int32_t operation;
    int32_t ready;
    uint64_t inode;
    int64_t size; /* of the file after the call */
    char path[232];
};

struct control {
    int32_t mode;
    uint32_t operations; /* bit mask */
    int32_t error;
    int32_t log; /* whether to note what happens */
    int64_t at;  /* number of the call, from 1 */
    int64_t seen;
    int64_t fired;
    int32_t pid; /* of the first that fired */
    int32_t operation;
    int32_t named_only; /* refuse files without a name, as some file systems do */
    int32_t unused;
    int64_t entries;
    char prefix[PATH_BYTES];
    char path[PATH_BYTES]; /* where it fired first */
    char root[PATH_BYTES]; /* what is noted */
    struct entry entry[ENTRIES];
};

static struct control *control;

/* Map the control block of a file; also called by a forked service for its own. 0 where it worked. */
int crash_attach(const char *file)
{
    int descriptor = openat(AT_FDCWD, file, O_RDWR | O_CLOEXEC);
    if (descriptor < 0)
        return -1;
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (mapped == MAP_FAILED)
        return -1;
    control = mapped;
    return 0;
}

__attribute__((constructor)) static void begin(void)
{
    const char *file = getenv("CRASH_CONTROL");
    if (file != NULL)
        crash_attach(file);
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (real == NULL) \
        *(void **)&real = dlsym(RTLD_NEXT, #name)

static int active(void)
{
    return control != NULL && (control->mode != OFF || control->log || control->named_only);
}

static void link_of(const char *proc, char *path)
{
    int saved = errno;
    ssize_t length = readlink(proc, path, PATH_BYTES - 1);
    path[length < 0 ? 0 : length] = '\0';
    errno = saved;
}

static void path_of_descriptor(int descriptor, char *path)
{
    char proc[64];
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", descriptor);
    link_of(proc, path);
}

static void absolute(int folder, const char *name, char *path)
{
    if (name[0] == '/') {
        snprintf(path, PATH_BYTES, "%s", name);
        return;
    }
    char base[PATH_BYTES];
    if (folder == AT_FDCWD)
        link_of("/proc/self/cwd", base);
    else
        path_of_descriptor(folder, base);
    if (snprintf(path, PATH_BYTES, "%s/%s", base, name) >= PATH_BYTES)
        path[0] = '\0';
}

static int below(const char *path)
{
    return strncmp(path, control->prefix, strlen(control->prefix)) == 0;
}

/* The error this call is to fail with; 0: let it through; -1: let half of it through. */
static int decide(enum operation operation, const char *path)
{
    if (control->mode == OFF || !(control->operations & 1u << operation) || !below(path))
        return 0;
    int64_t number = __atomic_add_fetch(&control->seen, 1, __ATOMIC_SEQ_CST);
    int mode = control->mode;
    if (mode == COUNT || mode == OFF || number < control->at || (mode != FAIL_FROM && number != control->at))
        return 0;
    int error = control->error;
    int64_t fired = __atomic_add_fetch(&control->fired, 1, __ATOMIC_SEQ_CST);
    if (fired == 1) {
        control->pid = getpid();
        control->operation = operation;
        memcpy(control->path, path, PATH_BYTES);
    }
    if (mode == KILL) {
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    }
    return mode == FAIL_FROM && fired == 1 ? -1 : error;
}

static void note(enum operation operation, int descriptor, const char *path)
{
    struct stat status;
    if (!control->log || strncmp(path, control->root, strlen(control->root)) != 0)
        return;
    int saved = errno;
    memset(&status, 0, sizeof status);
    if (descriptor >= 0 ? fstat(descriptor, &status) : stat(path, &status)) {
        status.st_ino = 0;
        status.st_size = -1;
    }
    int64_t number = __atomic_fetch_add(&control->entries, 1, __ATOMIC_SEQ_CST);
    if (number < ENTRIES) {
        struct entry *entry = &control->entry[number];
        entry->operation = operation;
        entry->inode = status.st_ino;
        entry->size = status.st_size;
        snprintf(entry->path, sizeof entry->path, "%s", path);
        __atomic_store_n(&entry->ready, 1, __ATOMIC_SEQ_CST);
    }
    errno = saved;
}

#define REFUSE(operation, path, result) \
    do { \
        int refused = decide(operation, path); \
        if (refused) { \
            errno = refused > 0 ? refused : control->error; \
            return result; \
        } \
    } while (0)

static int refuse_open(int folder, const char *name, int flags)
{
    char path[PATH_BYTES];
    if (!active())
        return 0;
    absolute(folder, name, path);
    if (control->named_only && (flags & O_TMPFILE) == O_TMPFILE && below(path)) {
        errno = EOPNOTSUPP;
        return 1;
    }
    REFUSE(OPEN, path, 1);
    return 0;
}

#define MODE_OF(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list list; \
        va_start(list, flags); \
        mode = va_arg(list, mode_t); \
        va_end(list); \
    }

int open(const char *name, int flags, ...)
{
    MODE_OF(flags);
    REAL(open);
    return refuse_open(AT_FDCWD, name, flags) ? -1 : real(name, flags, mode);
}

int open64(const char *name, int flags, ...)
{
    MODE_OF(flags);
    REAL(open64);
    return refuse_open(AT_FDCWD, name, flags) ? -1 : real(name, flags, mode);
}

int openat(int folder, const char *name, int flags, ...)
{
    MODE_OF(flags);
    REAL(openat);
    return refuse_open(folder, name, flags) ? -1 : real(folder, name, flags, mode);
}

int openat64(int folder, const char *name, int flags, ...)
{
    MODE_OF(flags);
    REAL(openat64);
    return refuse_open(folder, name, flags) ? -1 : real(folder, name, flags, mode);
}

/* What writes have in common: fail, or on a disk that fills up write half of it first. */
#define WRITING(descriptor, count, half, whole) \
    char path[PATH_BYTES]; \
    if (!active()) \
        return whole; \
    path_of_descriptor(descriptor, path); \
    int refused = decide(WRITE, path); \
    if (refused > 0 || (refused < 0 && (count) < 2)) { \
        errno = control->error; \
        return -1; \
    } \
    ssize_t written = refused < 0 ? half : whole; \
    if (written >= 0) \
        note(WRITE, descriptor, path); \
    return written

ssize_t write(int descriptor, const void *data, size_t count)
{
    REAL(write);
    WRITING(descriptor, count, real(descriptor, data, count / 2), real(descriptor, data, count));
}

ssize_t pwrite(int descriptor, const void *data, size_t count, off_t offset)
{
    REAL(pwrite);
    WRITING(descriptor, count, real(descriptor, data, count / 2, offset), real(descriptor, data, count, offset));
}

ssize_t pwrite64(int descriptor, const void *data, size_t count, off64_t offset)
{
    REAL(pwrite64);
    WRITING(descriptor, count, real(descriptor, data, count / 2, offset), real(descriptor, data, count, offset));
}

ssize_t writev(int descriptor, const struct iovec *parts, int count)
{
    REAL(writev);
    WRITING(descriptor, count, real(descriptor, parts, count / 2), real(descriptor, parts, count));
}

ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t offset)
{
    REAL(pwritev);
    WRITING(descriptor, count, real(descriptor, parts, count / 2, offset), real(descriptor, parts, count, offset));
}

ssize_t pwritev64(int descriptor, const struct iovec *parts, int count, off64_t offset)
{
    REAL(pwritev64);
    WRITING(descriptor, count, real(descriptor, parts, count / 2, offset), real(descriptor, parts, count, offset));
}

#define ON_DESCRIPTOR(operation, descriptor, call) \
    char path[PATH_BYTES]; \
    if (!active()) \
        return call; \
    path_of_descriptor(descriptor, path); \
    REFUSE(operation, path, -1); \
    int result = call; \
    if (result == 0) \
        note(operation, descriptor, path); \
    return result

int fsync(int descriptor)
{
    REAL(fsync);
    ON_DESCRIPTOR(FSYNC, descriptor, real(descriptor));
}

/* Says what is wrong by its result; errno stays as it is. */
int posix_fallocate(int descriptor, off_t offset, off_t length)
{
    REAL(posix_fallocate);
    char path[PATH_BYTES];
    if (!active())
        return real(descriptor, offset, length);
    path_of_descriptor(descriptor, path);
    int refused = decide(WRITE, path);
    return refused ? control->error : real(descriptor, offset, length);
}

int fdatasync(int descriptor)
{
    REAL(fdatasync);
    ON_DESCRIPTOR(FDATASYNC, descriptor, real(descriptor));
}

int ftruncate(int descriptor, off_t length)
{
    REAL(ftruncate);
    ON_DESCRIPTOR(TRUNCATE, descriptor, real(descriptor, length));
}

#define ON_PATH(operation, folder, name, call) \
    char path[PATH_BYTES]; \
    if (!active()) \
        return call; \
    absolute(folder, name, path); \
    REFUSE(operation, path, -1); \
    int result = call; \
    if (result == 0) \
        note(operation, -1, path); \
    return result

int rename(const char *old, const char *new)
{
    REAL(rename);
    ON_PATH(RENAME, AT_FDCWD, new, real(old, new));
}

int renameat(int old_folder, const char *old, int folder, const char *new)
{
    REAL(renameat);
    ON_PATH(RENAME, folder, new, real(old_folder, old, folder, new));
}

int link(const char *old, const char *new)
{
    REAL(link);
    ON_PATH(LINK, AT_FDCWD, new, real(old, new));
}

int linkat(int old_folder, const char *old, int folder, const char *new, int flags)
{
    REAL(linkat);
    ON_PATH(LINK, folder, new, real(old_folder, old, folder, new, flags));
}

int unlink(const char *name)
{
    REAL(unlink);
    ON_PATH(UNLINK, AT_FDCWD, name, real(name));
}

int unlinkat(int folder, const char *name, int flags)
{
    REAL(unlinkat);
    ON_PATH(UNLINK, folder, name, real(folder, name, flags));
}

int mkdir(const char *name, mode_t mode)
{
    REAL(mkdir);
    ON_PATH(MKDIR, AT_FDCWD, name, real(name, mode));
}

int mkdirat(int folder, const char *name, mode_t mode)
{
    REAL(mkdirat);
    ON_PATH(MKDIR, folder, name, real(folder, name, mode));
}

/* What goes to PostgreSQL and to peers; it belongs to no folder. */
ssize_t send(int descriptor, const void *data, size_t count, int flags)
{
    REAL(send);
    if (active() && control->operations & 1u << SEND)
        REFUSE(SEND, control->prefix, -1);
    return real(descriptor, data, count, flags);
}
