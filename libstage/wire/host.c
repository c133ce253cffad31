#include "libstage/wire/host.h"

#include <fcntl.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/wire/control.h"

/* The kernel's boot (one host), the device and inode of /dev/shm (one container) and the user (permissions). Plain
 * text, so that a stage in any language can make it. */
void qp_host_identity(char *text, size_t size)
{
    char boot[65] = "";
    qp_auto_close int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, boot, sizeof boot - 1) <= 0)
        gethostname(boot, sizeof boot - 1);
    struct stat st = {0};
    stat("/dev/shm", &st);
    snprintf(text, size, "%.*s/%llu/%llu/%u", (int)strcspn(boot, "\n"), boot, (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino, (unsigned)geteuid());
}

/* "tcp://HOST:PORT" split; a host in brackets loses them. */
static bool split_tcp(const char *endpoint, char *host, size_t host_size, char *port, size_t port_size)
{
    const char *start = endpoint + strlen("tcp://"), *colon = strrchr(endpoint, ':');
    if (strncmp(endpoint, "tcp://", 6) != 0 || colon < start)
        return false;
    size_t n = (size_t)(colon - start);
    if (n >= 2 && start[0] == '[' && start[n - 1] == ']') {
        start++;
        n -= 2;
    }
    return (size_t)snprintf(host, host_size, "%.*s", (int)n, start) < host_size &&
           (size_t)snprintf(port, port_size, "%s", colon + 1) < port_size;
}

/* A connected UDP socket sends nothing, but the kernel has chosen the interface. */
static int local_address(const struct addrinfo *peer, char *address, size_t size)
{
    qp_auto_close int fd = socket(peer->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_storage own;
    socklen_t length = sizeof own;
    if (fd < 0 || connect(fd, peer->ai_addr, peer->ai_addrlen) < 0 ||
        getsockname(fd, (struct sockaddr *)&own, &length) < 0)
        return -1;
    return getnameinfo((struct sockaddr *)&own, length, address, (socklen_t)size, NULL, 0, NI_NUMERICHOST);
}

int qp_host_address_towards(const char *endpoint, char *address, size_t size, struct qp_error *err)
{
    char host[256], port[16];
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM}, *peers = NULL;
    if (!split_tcp(endpoint, host, sizeof host, port, sizeof port))
        return qp_fail(err, QP_ERR_INPUT, "%s: expected tcp://ADDRESS:PORT", endpoint);
    int cause = getaddrinfo(host, port, &hints, &peers);
    if (cause != 0)
        return qp_fail(err, QP_ERR_INPUT, "%s: cannot resolve %s: %s", endpoint, host, gai_strerror(cause));
    cause = local_address(peers, address, size);
    freeaddrinfo(peers);
    return cause == 0 ? 0 : qp_fail_errno(err, QP_ERR_STAGE, "%s: no route from this host", endpoint);
}
