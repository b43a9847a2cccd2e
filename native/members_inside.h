/* Between members.c and members_fork.c. */

#ifndef KIN_MEMBERS_INSIDE_H
#define KIN_MEMBERS_INSIDE_H

#include <stdint.h>

#define KIN_EMBRYO (UINT32_C(1) << 31) /* as `handles`: of a child that is not there yet */


#endif
