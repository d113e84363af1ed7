/* Counts the file-system calls below a directory, and breaks or records them. See faults.py.
 *
 * Load it with LD_PRELOAD. `faults_arm` starts the count, which only includes calls of its process.
 * Calls below the directory are numbered from 1. The action decides what happens at a call:
 *   COUNT   only counts.
 *   RECORD  copies the directory to STORE/NUMBER before each `target`-th call, and splits
 *           each write in two, so that the copies include half-written files. Stores what each
 *           fsync puts on disk as STORE/synced/INODE.NUMBER: the content of a file, or the names in a
 *           directory.
 *   FAIL    makes call `target` fail with `error`; with `sticky`, all later calls as well.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum action { COUNT, RECORD, FAIL };
enum verdict { PROCEED, REFUSE, SPLIT };
#define DESCRIPTORS 65536

static char directory[PATH_MAX], store[PATH_MAX];
static size_t directory_length;
static enum action action;
static long target, calls;
static int error_number, is_sticky, is_armed;
static pid_t armed_process;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char is_below[DESCRIPTORS]; /* Whether the file of a descriptor is below the directory. */

void faults_arm(const char *below, int what, long number, int error, int sticky,
                const char *kept) {
    snprintf(directory, sizeof directory, "%s", below);
    snprintf(store, sizeof store, "%s", kept);
    directory_length = strlen(directory);
    action = what, target = number, error_number = error, is_sticky = sticky;
    memset(is_below, 0, sizeof is_below);
    calls = 0, armed_process = getpid(), is_armed = 1;
}

long faults_disarm(void) {
    is_armed = 0;
    return calls;
}

static int is_active(void) { return is_armed && armed_process == getpid(); }

static int below(const char *path) {
    char whole[2 * PATH_MAX], current[PATH_MAX];
    if (!is_active() || !path) return 0;
    if (path[0] != '/') {
        if (!getcwd(current, sizeof current)) return 0;
        snprintf(whole, sizeof whole, "%s/%s", current, path);
        path = whole;
    }
    return !strncmp(path, directory, directory_length) &&
           (!path[directory_length] || path[directory_length] == '/');
}

static int below_at(int base, const char *path) {
    if (path[0] == '/' || base == AT_FDCWD) return below(path);
    return is_active() && base >= 0 && base < DESCRIPTORS && is_below[base];
}

static int ours(int descriptor) {
    return is_active() && descriptor >= 0 && descriptor < DESCRIPTORS && is_below[descriptor];
}

static void shell(const char *format, ...) {
    char command[4 * PATH_MAX];
    va_list arguments;
    int kept = errno;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    if (system(command)) fprintf(stderr, "faults: cannot run %s\n", command);
    errno = kept;
}

/* Counts a call, and returns what happens to it. */
static enum verdict meet(void) {
    enum verdict verdict = PROCEED;
    pthread_mutex_lock(&mutex);
    calls++;
    int is_target = calls == target || (is_sticky && calls > target);
    if (action == RECORD) verdict = SPLIT;
    if (action == RECORD && calls % target == 0)
        shell("LD_PRELOAD= ; cd '%s' 2> /dev/null || exit 0; cp -a . '%s/%06ld' && "
              "find . -printf '%%i %%y %%P\\n' > '%s/%06ld.inodes'",
              directory, store, calls, store, calls);
    if (is_target && action == FAIL) verdict = REFUSE, errno = error_number;
    pthread_mutex_unlock(&mutex);
    return verdict;
}

/* Stores what the sync of `descriptor` has put on disk. */
static void keep_synced(int descriptor) {
    struct stat status;
    char path[64];
    if (action != RECORD || fstat(descriptor, &status)) return;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", getpid(), descriptor);
    pthread_mutex_lock(&mutex);
    if (S_ISDIR(status.st_mode))
        shell("LD_PRELOAD= ; find %s/ -mindepth 1 -maxdepth 1 -printf '%%i %%y %%f\\n' "
              "> '%s/synced/%ju.%06ld'", path, store, (uintmax_t)status.st_ino, calls);
    else
        shell("LD_PRELOAD= ; cat %s > '%s/synced/%ju.%06ld'", path, store,
              (uintmax_t)status.st_ino, calls);
    pthread_mutex_unlock(&mutex);
}

static int opened(int descriptor, int is_ours) {
    if (descriptor >= 0 && descriptor < DESCRIPTORS) is_below[descriptor] = is_ours;
    return descriptor;
}

#define REAL(result, name, ...)                  \
    static result (*real)(__VA_ARGS__);          \
    if (!real) real = dlsym(RTLD_NEXT, #name)

#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        va_list arguments;                                                \
        va_start(arguments, flags);                                       \
        mode_t mode = va_arg(arguments, mode_t);                          \
        va_end(arguments);                                                \
        REAL(int, name, const char *, int, ...);                          \
        int is_ours = below(path);                                        \
        if (is_ours && meet() == REFUSE) return -1;         \
        return opened(real(path, flags, mode), is_ours);                  \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                      \
    int name(int base, const char *path, int flags, ...) {                \
        va_list arguments;                                                \
        va_start(arguments, flags);                                       \
        mode_t mode = va_arg(arguments, mode_t);                          \
        va_end(arguments);                                                \
        REAL(int, name, int, const char *, int, ...);                     \
        int is_ours = below_at(base, path);                               \
        if (is_ours && meet() == REFUSE) return -1;         \
        return opened(real(base, path, flags, mode), is_ours);            \
    }
OPENAT(openat)
OPENAT(openat64)

/* Splits writes of at least two bytes; the caller writes the rest in another call. */
#define WRITE(name, signature, whole, half, size)          \
    ssize_t name signature {                               \
        REAL(ssize_t, name, SIGNATURE_##name);             \
        if (!ours(descriptor)) return whole;               \
        enum verdict verdict = meet();              \
        if (verdict == REFUSE) return -1;                  \
        if (verdict == PROCEED || (size) < 2) return whole;\
        ssize_t written = half;                            \
        return written;                                    \
    }
#define SIGNATURE_write int, const void *, size_t
#define SIGNATURE_pwrite int, const void *, size_t, off_t
#define SIGNATURE_pwrite64 int, const void *, size_t, off64_t
#define SIGNATURE_writev int, const struct iovec *, int
WRITE(write, (int descriptor, const void *data, size_t size), real(descriptor, data, size),
      real(descriptor, data, size / 2), size)
WRITE(pwrite, (int descriptor, const void *data, size_t size, off_t offset),
      real(descriptor, data, size, offset), real(descriptor, data, size / 2, offset), size)
WRITE(pwrite64, (int descriptor, const void *data, size_t size, off64_t offset),
      real(descriptor, data, size, offset), real(descriptor, data, size / 2, offset), size)
WRITE(writev, (int descriptor, const struct iovec *parts, int count),
      real(descriptor, parts, count), real(descriptor, parts, 1), count)

/* Calls that succeed or fail, without anything in between. */
#define CALL(result, name, is_ours, signature, types, arguments)        \
    result name signature {                                             \
        REAL(result, name, types);                                      \
        if ((is_ours) && meet() == REFUSE) return -1;               \
        return real arguments;                                          \
    }
#define TYPES(...) __VA_ARGS__
CALL(ssize_t, read, ours(descriptor), (int descriptor, void *data, size_t size),
     TYPES(int, void *, size_t), (descriptor, data, size))
CALL(ssize_t, pread, ours(descriptor),
     (int descriptor, void *data, size_t size, off_t offset),
     TYPES(int, void *, size_t, off_t), (descriptor, data, size, offset))
CALL(ssize_t, pread64, ours(descriptor),
     (int descriptor, void *data, size_t size, off64_t offset),
     TYPES(int, void *, size_t, off64_t), (descriptor, data, size, offset))
CALL(int, ftruncate, ours(descriptor), (int descriptor, off_t size),
     TYPES(int, off_t), (descriptor, size))
CALL(int, ftruncate64, ours(descriptor), (int descriptor, off64_t size),
     TYPES(int, off64_t), (descriptor, size))
CALL(int, flock, ours(descriptor), (int descriptor, int operation), TYPES(int, int),
     (descriptor, operation))
CALL(int, rename, below(to), (const char *from, const char *to),
     TYPES(const char *, const char *), (from, to))
CALL(int, renameat, below_at(to_base, to),
     (int from_base, const char *from, int to_base, const char *to),
     TYPES(int, const char *, int, const char *), (from_base, from, to_base, to))
CALL(int, renameat2, below_at(to_base, to),
     (int from_base, const char *from, int to_base, const char *to, unsigned flags),
     TYPES(int, const char *, int, const char *, unsigned), (from_base, from, to_base, to, flags))
CALL(int, link, below(to), (const char *from, const char *to),
     TYPES(const char *, const char *), (from, to))
CALL(int, linkat, below_at(to_base, to),
     (int from_base, const char *from, int to_base, const char *to, int flags),
     TYPES(int, const char *, int, const char *, int), (from_base, from, to_base, to, flags))
CALL(int, mkdir, below(path), (const char *path, mode_t mode),
     TYPES(const char *, mode_t), (path, mode))
CALL(int, mkdirat, below_at(base, path), (int base, const char *path, mode_t mode),
     TYPES(int, const char *, mode_t), (base, path, mode))
CALL(int, unlink, below(path), (const char *path), TYPES(const char *), (path))
CALL(int, unlinkat, below_at(base, path), (int base, const char *path, int flags),
     TYPES(int, const char *, int), (base, path, flags))
CALL(int, rmdir, below(path), (const char *path), TYPES(const char *), (path))

#define SYNC(name)                                                    \
    int name(int descriptor) {                                        \
        REAL(int, name, int);                                         \
        if (!ours(descriptor)) return real(descriptor);               \
        if (meet() == REFUSE) return -1;                        \
        int result = real(descriptor);                                \
        keep_synced(descriptor);                                      \
        return result;                                                \
    }
SYNC(fsync)
SYNC(fdatasync)

int close(int descriptor) {
    REAL(int, close, int);
    if (!ours(descriptor)) return real(descriptor);
    is_below[descriptor] = 0;
    enum verdict verdict = meet();
    int result = real(descriptor); /* Linux closes a descriptor even if close reports an error. */
    if (verdict == REFUSE) errno = error_number;
    return verdict == REFUSE ? -1 : result;
}
