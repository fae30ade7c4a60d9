//go:build unix

package certificate

import (
	"io/fs"
	"syscall"
)

// readByOthers reports whether a key can be read by users for whom it is not, see
// [Load].
func readByOthers(key fs.FileInfo) bool {
	others := fs.FileMode(0o077)
	if st, ok := key.Sys().(*syscall.Stat_t); ok && st.Uid == 0 {
		others = 0o027 // the group may read
	}
	return key.Mode()&others != 0
}
