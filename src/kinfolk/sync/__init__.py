"""What keeps shared memory consistent. The rooms:

findings   what is wrong with memory in which no object of these can be opened, and who is at it
places     where an object lies: by name (names, under name_lock), inside memory that is shared already, or anonymous
placed     what every object has that lies somewhere
mutex      one at a time, and the next one is told when the last has died
event      what has come about, told to all who wait for it
condition  waiting, without a mutex, for what others change under it
semaphore  up to so many at a time, and what the dead held comes back; membership says what stands against watching the others
file_lock  one at a time, or several that share, on a file: lock_path finds it, lock_holds and posix_hold lock it, lock_table knows
           what this process has, lock_owner whose it is in here, lock_holders whose elsewhere
posix_semaphore   libc's semaphore, which C programs share: posix_semaphore_file is what a named one is
sysv_semaphore    sets that the kernel keeps, and what to undo when a process ends: sysv_set makes them, sysv_private removes those without a key,
                  sysv_sem_limits and sysv_sem_errors say why not
takings           the calls of this process that wait by one of these two
"""
