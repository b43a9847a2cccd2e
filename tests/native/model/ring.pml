/* The ring, for spin: who sends, who receives, who sleeps and is woken, and a kill between any two steps.
 *
 * tests/native/model/test_ring_model.py runs it. native/ring.c and ring_wait.c are what it is about; the names are the same.
 *
 *     SENDERS processes send one message each, RECEIVERS receive until all are accounted for, in a ring with room for ROOM.
 *     Each step of a process is one access to shared memory. Between any two, up to KILLS of them are killed, in whatever state.
 *
 * What the kernel does when one is killed (robust.h): the lock that he holds, by the list or as pending, gets free; and if a futex
 * of the ring is pending, one who sleeps there is woken. A sleeper that is killed sleeps no more.
 *
 * Abstracted: the locks, which have a model of their own (tests/models/mutex_model.py): one here is taken and released in one step.
 * But while it is being taken, nothing else can be pending, and that is kept: `pending` is the lock then.
 * Left out: spinning, which only looks; positions are counts of messages; a message is its number, in two halves.
 *
 * Asserted: each message is received once or went with a killed receiver; in the order of commitment; none torn; at the end nobody sleeps while there is
 * something for him. Mistakes to be found: -DMISTAKE=1 to 9, see below.
 */

#ifndef SENDERS
#define SENDERS 2
#endif
#ifndef RECEIVERS
#define RECEIVERS 2
#endif
#ifndef ROOM
#define ROOM 1
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef MISTAKE
#define MISTAKE 0
#endif

#define NO_RECHECK (MISTAKE == 1)    /* it is not looked again between announcing and sleeping */
#define BIT_ALONE (MISTAKE == 9)     /* the kernel compares WAITERS alone, which may be gone and set again */
#define EARLY_COMMIT (MISTAKE == 2)  /* the position moves before the message is written */
#define NO_PENDING (MISTAKE == 3)    /* who commits has nothing pending */
#define NO_BATON (MISTAKE == 4)      /* who was woken wakes nobody before he goes for it */
#define NO_RESTORE (MISTAKE == 5)    /* who was woken does not say that others may sleep still */
#define ASLEEP_ALONE (MISTAKE == 6)  /* who sleeps has nothing pending */
#define WAKE_FIRST (MISTAKE == 7)    /* WAITERS is taken away after the wake-up, not before */
#define PLAIN_LOCK (MISTAKE == 8)    /* the kernel knows nothing of the locks */

#define PROCESSES (SENDERS + RECEIVERS)
#define SENDING 0
#define RECEIVING 1

/* A side: 0 those who send, 1 those who receive. */
bit lock[2];
byte position[2];
bit waiters[2];      /* FUTEX_WAITERS in `asleep` */

byte first[ROOM], second[ROOM]; /* the halves of the messages */

#if BIT_ALONE || NO_RECHECK
#define MAY_SLEEP waiters[mine]
#else
#define MAY_SLEEP (waiters[mine] && position[theirs] == seen)
#endif

/* A process, as the kernel sees it. */
#define NOTHING 0
#define LOCK 1
#define BELL 2       /* and which side's: `belongs` */
byte pending[PROCESSES];
byte belongs[PROCESSES];
bit holds[PROCESSES];
bit sleeping[PROCESSES];
bit dead[PROCESSES];
bit over[PROCESSES];
byte kills = 0;

byte received[SENDERS + 1];
byte last_position;  /* of what was received last: in order */

#define side_of(who) (who >= SENDERS -> RECEIVING : SENDING)
#define depth (position[SENDING] - position[RECEIVING])

/* There is something for this side: `is_there` in ring_wait.c. */
#define is_there(side) (side == RECEIVING -> depth > 0 : depth < ROOM)

/* futex_wake(asleep of a side, 1): any of those who sleep there. */
inline wake_one(side)
{
    if
    :: side == SENDING && sleeping[0] -> sleeping[0] = 0
#if SENDERS > 1
    :: side == SENDING && sleeping[1] -> sleeping[1] = 0
#endif
    :: side == RECEIVING && sleeping[SENDERS] -> sleeping[SENDERS] = 0
#if RECEIVERS > 1
    :: side == RECEIVING && sleeping[SENDERS + 1] -> sleeping[SENDERS + 1] = 0
#endif
    :: side == SENDING && !sleeping[0] && (SENDERS == 1 || !sleeping[SENDERS - 1]) -> skip
    :: side == RECEIVING && !sleeping[SENDERS] && (RECEIVERS == 1 || !sleeping[PROCESSES - 1]) -> skip
    fi
}

/* kin_ring_wake */
inline wake(side)
{
#if WAKE_FIRST
    atomic { waiters[side] -> wake_one(side) } unless { !waiters[side] };
    waiters[side] = 0;
#else
    if
    :: atomic { waiters[side] -> waiters[side] = 0 };
       atomic { wake_one(side) }
    :: atomic { !waiters[side] -> skip }
    fi
#endif
}

inline set_pending(what, side)
{
    atomic { pending[me] = what; belongs[me] = side }
}

inline take_lock()
{
    set_pending(LOCK, mine);
    atomic { lock[mine] == 0 -> lock[mine] = 1; holds[me] = 1 }
}

inline release_lock()
{
    set_pending(LOCK, mine);
    atomic { lock[mine] = 0; holds[me] = 0 };
    set_pending(NOTHING, 0)
}

/* kin_ring_tell */
inline tell()
{
    if
    :: atomic { waiters[theirs] && is_there(theirs) -> skip };
       wake(theirs)
    :: atomic { !(waiters[theirs] && is_there(theirs)) -> skip }
    fi
}

/* kin_ring_wait */
inline wait_until_there()
{
#if !ASLEEP_ALONE
    set_pending(BELL, mine);
#endif
    do
    :: true ->
#if NO_RECHECK
       /* What it saw before it announced. */
#else
       waiters[mine] = 1;
       seen = position[theirs];
       if
       :: atomic { is_there(mine) -> skip };
#if !NO_BATON
          wake(mine);
#endif
          break
       :: atomic { !is_there(mine) -> skip }
       fi;
#endif
#if NO_RECHECK
       waiters[mine] = 1;
#endif
       /* The kernel compares, and puts it to sleep, in one. */
       if
       :: atomic { MAY_SLEEP -> sleeping[me] = 1 };
          atomic { !sleeping[me] -> skip }
       :: atomic { !(MAY_SLEEP) -> skip }
       fi;
#if NO_RESTORE
       if
       :: atomic { is_there(mine) -> break }
       :: atomic { !is_there(mine) -> skip }
       fi
#endif
    od;
    seen = 0;
    set_pending(NOTHING, 0)
}

proctype sender(byte me)
{
    byte mine = SENDING, theirs = RECEIVING;
    bit done = 0;
    byte at, seen = 0;
    {
        do
        :: done -> break
        :: !done ->
            take_lock();
            at = position[SENDING];
            if
            :: atomic { at - position[RECEIVING] < ROOM -> skip };
#if EARLY_COMMIT
               set_pending(BELL, theirs);
               position[SENDING] = at + 1;
               first[at % ROOM] = me + 1;
               second[at % ROOM] = me + 1;
#else
               first[at % ROOM] = me + 1;
               second[at % ROOM] = me + 1;
#if !NO_PENDING
               set_pending(BELL, theirs);
#endif
               position[SENDING] = at + 1;
#endif
               tell();
               release_lock();
               done = 1
            :: atomic { at - position[RECEIVING] >= ROOM -> skip };
               release_lock();
               wait_until_there()
            fi
        od;
        over[me] = 1
    } unless { dead[me] }
}

proctype receiver(byte me)
{
    byte mine = RECEIVING, theirs = SENDING;
    byte at, one, other, seen = 0;
    {
end:    do
        :: true ->
            take_lock();
            at = position[RECEIVING];
            if
            :: atomic { position[SENDING] > at -> skip };
               one = first[at % ROOM];
               other = second[at % ROOM];
               assert(one == other && one > 0 && one <= SENDERS);
               set_pending(BELL, theirs);
               d_step {
                   position[RECEIVING] = at + 1;
                   received[one]++;
                   assert(received[one] == 1);
                   assert(at == last_position);
                   last_position = at + 1;
                   one = 0; other = 0
               };
               tell();
               release_lock()
            :: atomic { position[SENDING] <= at -> skip };
               release_lock();
               wait_until_there()
            fi
        od
    } unless { dead[me] }
}

/* The kernel, when `victim` is killed: exit_robust_list. */
inline kill(victim)
{
    d_step {
        dead[victim] = 1;
        sleeping[victim] = 0;
        kills++;
#if !PLAIN_LOCK
        if
        :: holds[victim] -> lock[side_of(victim)] = 0; holds[victim] = 0
        :: else
        fi
#endif
    };
    if
    :: atomic { pending[victim] == BELL -> wake_one(belongs[victim]) }
    :: atomic { pending[victim] != BELL -> skip }
    fi
}

proctype killer()
{
    byte victim;
    do
    :: atomic { kills < KILLS ->
           select(victim : 0 .. (PROCESSES - 1));
           if
           :: !dead[victim] && !over[victim] -> kill(victim)
           :: else
           fi
       }
    :: break
    od
}

/* Nobody has anything left to do: who lives sleeps, or has come to his end, and there is nothing for who sleeps. */
#define at_rest(who) (dead[who] || over[who] || sleeping[who])

active proctype judge()
{
    byte who;
    byte i;
    atomic {
        i = 0;
        do
        :: i < SENDERS -> run sender(i); i++
        :: i >= SENDERS && i < PROCESSES -> run receiver(i); i++
        :: i >= PROCESSES -> break
        od;
        run killer();
        i = 0
    };
    /* When nothing else can happen (spin runs this one last: it waits for `timeout`). */
end_judge:
    atomic {
        timeout ->
        i = 0;
        do
        :: i < PROCESSES ->
           assert(at_rest(i));
           assert(!(sleeping[i] && is_there(side_of(i))));
           i++
        :: i >= PROCESSES -> break
        od;
        /* What is in the ring can only be there if no receiver lives. */
        if
        :: depth > 0 ->
           i = SENDERS;
           do
           :: i < PROCESSES -> assert(dead[i]); i++
           :: i >= PROCESSES -> break
           od
        :: else
        fi
    }
}
