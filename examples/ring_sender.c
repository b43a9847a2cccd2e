/* Sends numbered frames into a ring, each built in the memory in which it is read.
 *
 *     ring_sender ring:NAME COUNT BYTES
 *
 *     cc ring_sender.c $(pkg-config --cflags --libs kinfolk) -o ring_sender
 *
 * In Python:  for frame in kin.open_receiver("ring:NAME"): …      each frame is a memoryview
 */

#include <kinfolk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int
main(int argc, char *argv[])
{
    struct kin_end *sender;
    struct kin_room room;
    if (argc != 4) {
        fputs("usage: ring_sender ring:NAME COUNT BYTES\n", stderr);
        return 2;
    }
    size_t length = strtoul(argv[3], NULL, 10);
    enum kin_error error = kin_open_sender(&sender, argv[1], NULL);
    for (int i = 0; error == KIN_OK && i < atoi(argv[2]); i++) {
        error = kin_reserve(sender, &room, length, NULL);
        if (error == KIN_OK) {
            memset(room.bytes, i, length); /* what a camera would do */
            error = kin_commit(&room, KIN_MEMORY, NULL);
            kin_drop(&room); /* does nothing if it was sent */
        }
    }
    if (error != KIN_OK)
        fprintf(stderr, "ring_sender: %s\n", kin_error_text(error));
    kin_close(sender);
    return error != KIN_OK;
}
