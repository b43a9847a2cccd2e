"""Channels: one contract over every mechanism of the kernel.

The rooms, from the ground up (each imports only those above it in this list):

    address     an address and its options, parsed
    contract    what a mechanism has to provide: transports, limits, the message
    codec       objects to bytes and back, arrays out of band
    framing     whole messages on byte streams, by chunks
    claims      one process at a time on each direction of a stream
    presence    who is still there, where the mechanism itself does not say
    trust       who may send a pickle, who may own a name
    endpoints   Sender, Receiver, Connection, Listener: what users hold
    pipe, fifo, unix_stream, …   one file a mechanism
    opening     open_sender, open_receiver, channel, pair, connect, listen
"""
