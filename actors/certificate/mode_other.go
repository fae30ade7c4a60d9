//go:build !unix

package certificate

import "io/fs"

func readByOthers(fs.FileInfo) bool { return false }
