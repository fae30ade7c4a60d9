package drain

// handshake follows the records that a TLS client sends just closely enough to
// tell when the handshake is over, so that a connection on which nothing was
// ever asked is not taken for a busy one. net/http does not say.
//
// It is over with the client's Finished. In TLS 1.3 that is the first record
// of type application data; in TLS 1.2 the first of type handshake behind the
// change of cipher (RFC 8446 section 5 and appendix D.4, RFC 5246 section
// 7.3). Where it is not as simple, with client certificates or a second
// ClientHello, the end is seen too early or too late, and the connection counts
// as busy until its first request was answered.
type handshake struct {
	over    bool
	header  [5]byte // of the record that is arriving
	have    int     // bytes of header
	left    int     // bytes of the record's content yet to come
	ciphers bool    // the change of cipher has been seen
}

// take follows p, and returns how much of it belongs to the handshake.
func (h *handshake) take(p []byte) (n int) {
	const (
		changeCipherSpec = 20
		handshaking      = 22
		applicationData  = 23
	)
	for n < len(p) && !h.over {
		if h.have < len(h.header) {
			m := copy(h.header[h.have:], p[n:])
			h.have += m
			n += m
			if h.have < len(h.header) {
				break
			}
			h.left = int(h.header[3])<<8 | int(h.header[4])
		}
		m := min(h.left, len(p)-n)
		h.left -= m
		n += m
		if h.left > 0 {
			break
		}
		h.have = 0
		switch h.header[0] {
		case changeCipherSpec:
			h.ciphers = true
		case handshaking:
			h.over = h.ciphers
		case applicationData:
			h.over = true
		}
	}
	return n
}
