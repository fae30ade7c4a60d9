package actors

import (
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"github.com/netresearch/go-cron"
)

// A Schedule says when [Every] runs its job. This package has [Interval] and
// [Cron]. The schedules of the usual cron packages are Schedules, too.
type Schedule interface {
	// Next returns the first time after t, or the zero time if there is none.
	Next(t time.Time) time.Time
}

// Interval is a [Schedule] with one time in each interval, counted from the
// beginning of execute, however long the runs take. Zero and negative values are
// an error of execute.
type Interval time.Duration

// Next returns t plus the interval.
func (d Interval) Next(t time.Time) time.Time { return t.Add(time.Duration(d)) }

// Cron returns the [Schedule] of an expression: five fields (minute, hour, day of
// the month, month, day of the week; see [crontab]), or @hourly, @daily, @weekly,
// @monthly or @yearly. Its times are those of a clock in loc. Nil means UTC, which
// has no daylight saving time.
//
// When daylight saving time begins or ends, Cron does what Debian's cron does. A
// time that the clock skips is run once, right after the skip. A time that the
// clock shows twice is run the first time only. An expression with a time in every
// hour is not affected: it runs in both of the hours that look the same, and
// nothing runs for the hour that is skipped.
//
// An expression that is wrong, or has no time (February 30), is an error.
//
// [crontab]: https://man7.org/linux/man-pages/man5/crontab.5.html
func Cron(expr string, loc *time.Location) (Schedule, error) {
	if loc == nil {
		loc = time.UTC
	}
	// The parser gets times in UTC only: in other zones it misses days and has
	// times twice.
	var parsed cron.Schedule
	err := errors.New("want the time zone as loc, not in the expression")
	if !strings.Contains(expr, "TZ=") {
		parser := cron.MustNewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)
		parsed, err = parser.Parse(expr)
	}
	if err == nil {
		err = checkLists(expr)
	}
	if err != nil {
		return nil, fmt.Errorf("cron expression %q: %w", expr, err)
	}
	fields, ok := parsed.(*cron.SpecSchedule)
	if !ok { // @every
		return nil, fmt.Errorf("cron expression %q: use an Interval", expr)
	}
	if f := strings.Fields(expr); len(f) == 5 {
		fields.DowOrDom = f[2][0] != '*' && f[4][0] != '*'
	}
	c := &cronSchedule{next: fields.Next, loc: loc, hourly: bits.OnesCount64(fields.Hour&(1<<24-1)) == 24}
	if c.Next(time.Now()).IsZero() {
		return nil, fmt.Errorf("cron expression %q: never comes true", expr)
	}
	return c, nil
}

// checkLists refuses what crontab(5) does not have and the parser accepts: an empty part
// of a list, and a range whose end is before its beginning, as in FRI-MON. SUN may be an
// end, being 7 as well as 0; but not with a step, which the parser gets wrong there.
func checkLists(expr string) error {
	for field := range strings.FieldsSeq(expr) {
		for part := range strings.SplitSeq(field, ",") {
			bounds, _, step := strings.Cut(part, "/")
			low, high, isRange := strings.Cut(bounds, "-")
			sunday := strings.EqualFold(high, "sun") && !step
			switch {
			case part == "":
				return fmt.Errorf("a part of the list is empty: %q", field)
			case isRange && cronValue(low) > cronValue(high) && !sunday:
				return fmt.Errorf("the range ends before it begins: %q", part)
			}
		}
	}
	return nil
}

// cronValue returns the value of a number, or of the name of a day or a month, which the
// parser has accepted.
func cronValue(s string) int {
	for n := range 13 {
		if strings.EqualFold(s, time.Weekday(n).String()[:3]) || strings.EqualFold(s, time.Month(n).String()[:3]) {
			return n
		}
	}
	n, _ := strconv.Atoi(s)
	return n
}

// cronSchedule maps an expression onto the time of a zone. A wall time is what
// a clock in the zone shows, kept as if it were UTC.
type cronSchedule struct {
	next   func(wall time.Time) time.Time
	loc    *time.Location
	hourly bool // it has a time in every hour
}

func (c *cronSchedule) Next(t time.Time) time.Time {
	t = t.In(c.loc)
	if c.hourly {
		return c.nextElapsed(t)
	}
	for wall := c.next(wallOf(t)); !wall.IsZero(); wall = c.next(wall) {
		if at := firstShown(wall, c.loc); at.After(t) {
			return at
		}
	}
	return time.Time{}
}

// nextElapsed returns the next time of a schedule that is hourly. Between two
// changes of the clock the distance between time and wall time is fixed.
func (c *cronSchedule) nextElapsed(t time.Time) time.Time {
	from := wallOf(t)
	for {
		next := c.next(from)
		if next.IsZero() {
			return next
		}
		at := t.Add(next.Sub(wallOf(t)))
		_, change := t.ZoneBounds()
		if change.IsZero() || at.Before(change) {
			return at.In(c.loc)
		}
		t = change
		from = wallOf(t).Add(-time.Second) // t itself may be the next time
	}
}

// wallOf returns what the clock shows at t, in the zone of t.
func wallOf(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// firstShown returns when the clock in loc first shows wall, or a later time.
func firstShown(wall time.Time, loc *time.Location) time.Time {
	// For a wall time that the clock shows twice, or never, Date uses one of the
	// two offsets, and does not say which.
	t := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), 0, loc)
	start, end := t.ZoneBounds()
	switch shown := wallOf(t); {
	case shown.After(wall): // skipped; t is after that
		return start
	case shown.Before(wall): // skipped; t is before that
		return end
	}
	if !start.IsZero() {
		before := start.Add(-time.Nanosecond)
		if earlier := before.Add(wall.Sub(wallOf(before))); earlier.Before(start) {
			return earlier
		}
	}
	return t
}
