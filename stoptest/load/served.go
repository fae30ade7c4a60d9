package load

import "iter"

// Served compares the ledger with the requests that the server says it served.
type Served struct {
	Count      int      // IDs of this load, each once
	Unanswered []string // served, and the client has no whole answer 2xx or 3xx, nor a stream's clean end
	Unserved   []string // answered, and the server has not served it
	Twice      []string // served more than once
	Foreign    int      // not IDs of this load
}

// Compare compares the ledger with the IDs that the server served, in any order.
// Both must be complete: a request that is in flight would seem to be lost.
func (l *Ledger) Compare(served iter.Seq[string]) Served {
	var s Served
	seen := make([][][]uint8, len(l.outcomes)) // times served, up to 2
	for g, clients := range l.outcomes {
		seen[g] = make([][]uint8, len(clients))
		for c, outs := range clients {
			seen[g][c] = make([]uint8, len(outs))
		}
	}
	for id := range served {
		o, ok := l.Outcome(id)
		if !ok {
			s.Foreign++
			continue
		}
		g, c, n, _ := parseID(l.run, id)
		switch times := &seen[g][c][n]; *times {
		case 0:
			*times = 1
			s.Count++
			if !o.answered() {
				s.Unanswered = append(s.Unanswered, id)
			}
		case 1:
			*times = 2
			s.Twice = append(s.Twice, id)
		}
	}
	for g, clients := range l.outcomes {
		for c, outs := range clients {
			for n, o := range outs {
				if o.answered() && seen[g][c][n] == 0 {
					s.Unserved = append(s.Unserved, string(appendID(nil, l.run, g, c, n)))
				}
			}
		}
	}
	return s
}
