/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Faults for the mutation test, one at a time. The verifier removes them: `mutant` is 0
 * and constant in every program that is not loaded by that test.
 */
#ifndef PRIVLINK_MUTANTS_H
#define PRIVLINK_MUTANTS_H

volatile const __u32 mutant = 0;

#define MUTANT(n) (mutant == (n))

#endif
