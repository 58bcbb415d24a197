/* Prints the addresses of a name, as the C library finds them. */
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int count, char **words) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    int why = getaddrinfo(count > 1 ? words[1] : "", NULL, &hints, &found);
    if (why) {
        puts(gai_strerror(why));
        return 1;
    }
    for (; found; found = found->ai_next) {
        char text[64];
        getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST);
        puts(text);
    }
    return 0;
}
