/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Types that Go needs and no map mentions: a pointer to each keeps it in the object's BTF, from
 * which bpf2go makes the Go type. Included by one program file only.
 */
#ifndef PRIVLINK_EXPORTS_H
#define PRIVLINK_EXPORTS_H

#include "types.h"
#include "reasons.h"

#define EXPORT(kind, name) const kind name *export_##name __attribute__((unused))

EXPORT(enum, limits);
EXPORT(enum, timeouts);
EXPORT(enum, flow_kind);
EXPORT(enum, flow_phase);
EXPORT(enum, flow_flags);
EXPORT(enum, iface_flags);
EXPORT(enum, out_flags);
EXPORT(enum, link_state);
EXPORT(enum, address_kind);
EXPORT(enum, distribution);
EXPORT(enum, rule_flags);
EXPORT(enum, backend_state);
EXPORT(enum, backend_flags);
EXPORT(enum, event_type);
EXPORT(enum, action);
EXPORT(enum, reason);
EXPORT(struct, event);
EXPORT(struct, sweep);
EXPORT(struct, ending);
EXPORT(struct, verdict);
EXPORT(struct, test_input);
EXPORT(struct, flow_tag);
EXPORT(struct, via_forward);
EXPORT(struct, hop);
EXPORT(enum, slot_state);

#endif
