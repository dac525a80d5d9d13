/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Faults of what is done by several CPUs at once, for the tests that must see them. One is chosen at
 * load; the verifier removes the others and, with FAULT_NONE, all of them.
 */
#ifndef PRIVLINK_FAULTS_H
#define PRIVLINK_FAULTS_H

enum fault {
	FAULT_NONE = 0,
	FAULT_NO_RECHECK = 1,     /* find does not read the state again after the copy */
	FAULT_NO_LOCK = 2,        /* insert does not lock the home */
	FAULT_SAME_SEQUENCE = 3,  /* a claim does not raise the sequence */
	FAULT_EARLY_LIVE = 4,     /* insert publishes before it writes */
	FAULT_BIT_LATE = 5,       /* insert sets the bit after LIVE */
	FAULT_BIT_STAYS = 6,      /* free leaves the bit */
	FAULT_NO_REST = 7,        /* insert takes a DEAD slot of its key at any age */
	FAULT_LATE_STAMP = 8,     /* end keeps the stamp of the last packet */
	FAULT_BLIND_END = 9,      /* end stores DEAD without looking */
	FAULT_REVERSE_FIRST = 10, /* a pair is ended reverse half first */
	/* of the packet programs: the stress of the table alone does not see them */
	FAULT_BLIND_TWIN = 11,  /* a half's twin is taken though the half's slot changed hands */
	FAULT_BLIND_STAMP = 12, /* a packet refreshes its slot whoever owns it */
};

#endif
