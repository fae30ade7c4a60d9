package drain

// handshake follows the records that a TLS client sends just closely enough to
// know when the handshake is over, so that a connection without a request does not
// count as busy. net/http does not report it.
//
// It is over with the client's Finished (RFC 8446 section 5 and appendix D.4,
// RFC 5246 section 7.3). In TLS 1.2 that is the first record of type handshake
// behind the change of cipher; a longer one is a second ClientHello of TLS 1.3.
// In TLS 1.3 it is the first record of type application data, or, where the
// client may send a certificate before it, the first that is as long as a
// Finished. If none is, the handshake is over when the first handler is called.
type handshake struct {
	over        bool
	clientCerts bool // the client may send a certificate
	ciphers     bool // the change of cipher has been seen
	records
}

// follow returns how much of p belongs to the handshake.
func (h *handshake) follow(p []byte) (n int) {
	const (
		changeCipherSpec = 20
		handshaking      = 22
		applicationData  = 23
	)
	for n < len(p) && !h.over {
		m, whole := h.records.follow(p[n:])
		n += m
		if !whole {
			break
		}
		switch h.header[0] {
		case changeCipherSpec:
			h.ciphers = true
		case handshaking:
			h.over = h.ciphers && h.length < 128 // Finished has 96 at most: IV 16, message 16, MAC 48, padding 16
		case applicationData:
			// Hash, header, content type and tag; the hash is that of the
			// cipher suite.
			h.over = !h.clientCerts || h.length == 32+4+1+16 || h.length == 48+4+1+16
		}
	}
	return n
}
