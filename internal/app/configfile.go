package app

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/peterbourgon/ff/v3"
)

// parseFile is ff.PlainParser, but returns read errors. PlainParser treats them as
// the end of the file.
func parseFile(r io.Reader, set func(name, value string) error) error {
	var read bytes.Buffer
	lines := bufio.NewScanner(io.TeeReader(r, &read))
	for lines.Scan() {
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return errors.New("-config: a line is longer than 64 KiB")
	case err != nil:
		return err
	}
	return ff.PlainParser(&read, set)
}
