/* Receives from a ring until every sender has gone, and looks at large messages where they are.
 *
 *     ring_receiver ring:NAME
 *
 *     cc ring_receiver.c $(pkg-config --cflags --libs kinfolk) -o ring_receiver
 *
 * In Python:  with kin.open_sender("ring:NAME", codec="json") as sender: sender.send({"any": "thing"})
 */

#include <kinfolk.h>
#include <stdio.h>

int
main(int argc, char *argv[])
{
    struct kin_end *receiver;
    struct kin_message message;
    if (argc != 2) {
        fputs("usage: ring_receiver ring:NAME\n", stderr);
        return 2;
    }
    enum kin_error error = kin_open_receiver(&receiver, argv[1], NULL, NULL);
    while (error == KIN_OK && (error = kin_recv(receiver, &message, NULL)) == KIN_OK) {
        if (message.encoding == KIN_JSON)
            printf("%.*s\n", (int)message.length, (const char *)message.bytes);
        else
            printf("%zu bytes%s\n", message.length, message.in_place ? ", in place" : "");
        fflush(stdout);
        kin_release_message(&message);
    }
    if (error != KIN_END_OF_CHANNEL)
        fprintf(stderr, "ring_receiver: %s\n", kin_error_text(error));
    kin_close(receiver);
    return error != KIN_END_OF_CHANNEL;
}
