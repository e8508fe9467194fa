/* Preloaded into a server that binds its ports on every address and has no setting against it (Orthanc 1.10, DCMTK's storescp):
 * whatever it binds to "any", IPv4 or IPv6, is bound to the loopback address. For tests and measurements on one machine.
 * Built by tests.peers.preload. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

typedef int (*bind_function)(int, const struct sockaddr *, socklen_t);

int bind(int socket, const struct sockaddr *address, socklen_t length)
{
    bind_function original;
    struct sockaddr_storage changed;

    *(void **)&original = dlsym(RTLD_NEXT, "bind");
    if (original == NULL) {
        errno = ENOSYS;
        return -1;
    }
    if (length > sizeof changed)
        return original(socket, address, length);
    memset(&changed, 0, sizeof changed);
    memcpy(&changed, address, length);
    if (changed.ss_family == AF_INET) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&changed;
        if (v4->sin_addr.s_addr == INADDR_ANY)
            v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    } else if (changed.ss_family == AF_INET6) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&changed;
        if (IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr))
            v6->sin6_addr = in6addr_loopback;
    }
    return original(socket, (struct sockaddr *)&changed, length);
}
