"""What keeps shared memory consistent. The rooms:

findings   what is wrong with memory in which no object of these can be opened
places     where an object lies: by name, inside memory that is shared already, or anonymous
mutex      one at a time, and the next one is told when the last has died
"""
