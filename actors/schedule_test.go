package actors_test

import (
	"fmt"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/netresearch/go-cron"

	"lastcall/actors"
)

func location(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func TestCron(t *testing.T) {
	for _, tt := range []struct {
		zone, from, expr string
		want             []string
	}{
		// 02:00 to 03:00 is skipped
		{"Europe/Berlin", "2026-03-29T00:50:00+01:00", "30 2 * * *", []string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"}},
		{"Europe/Berlin", "2026-03-29T00:50:00+01:00", "0,15,30 2 * * *", []string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"}},
		{"Europe/Berlin", "2026-03-29T00:50:00+01:00", "30 * * * *", []string{"2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00"}},
		{"Europe/Berlin", "2026-03-29T00:50:00+01:00", "@hourly", []string{"2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"}},
		// 02:00 to 03:00 is there twice
		{"Europe/Berlin", "2026-10-25T00:50:00+02:00", "30 2 * * *", []string{"2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"}},
		{"Europe/Berlin", "2026-10-25T02:10:00+01:00", "30 2 * * *", []string{"2026-10-26T02:30:00+01:00"}},
		{"Europe/Berlin", "2026-10-25T01:50:00+02:00", "*/30 * * * *", []string{"2026-10-25T02:00:00+02:00", "2026-10-25T02:30:00+02:00",
			"2026-10-25T02:00:00+01:00", "2026-10-25T02:30:00+01:00", "2026-10-25T03:00:00+01:00"}},
		{"America/Sao_Paulo", "2018-11-03T12:00:00-03:00", "@daily", []string{"2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00"}},       // no midnight
		{"Australia/Lord_Howe", "2026-10-03T12:00:00+10:30", "15 2 * * *", []string{"2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"}}, // half an hour
		{"Pacific/Apia", "2011-12-29T12:00:00-10:00", "0 9 * * *", []string{"2011-12-31T00:00:00+14:00", "2011-12-31T09:00:00+14:00"}},         // a day
		{"UTC", "2026-03-29T00:50:00Z", "30 2 * * *", []string{"2026-03-29T02:30:00Z"}},
		// the day of the month, or that of the week
		{"UTC", "2026-01-01T12:00:00Z", "0 0 13 * 5", []string{"2026-01-02T00:00:00Z", "2026-01-09T00:00:00Z", "2026-01-13T00:00:00Z", "2026-01-16T00:00:00Z"}},
		{"UTC", "2026-01-01T12:00:00Z", "0 0 29 2 0", []string{"2026-02-01T00:00:00Z", "2026-02-08T00:00:00Z"}},
		{"UTC", "2026-01-01T12:00:00Z", "0 0 13 * *", []string{"2026-01-13T00:00:00Z"}},
		{"UTC", "2026-01-01T12:00:00Z", "0 0 * * 5-7", []string{"2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z", "2026-01-04T00:00:00Z", "2026-01-09T00:00:00Z"}},
		{"UTC", "2026-01-01T12:00:00Z", "0 0 * * FRI-SUN", []string{"2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z", "2026-01-04T00:00:00Z", "2026-01-09T00:00:00Z"}},
		{"UTC", "2026-01-01T12:00:00Z", "0 0 1 feb-Mar *", []string{"2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z", "2027-02-01T00:00:00Z"}},
		{"UTC", "2026-01-01T12:00:00Z", "0 0 */2 * 5", []string{"2026-01-09T00:00:00Z", "2026-01-23T00:00:00Z"}}, // both, as it begins with *
		{"UTC", "2026-01-01T12:00:00Z", "0 0 1-7 * */7", []string{"2026-01-04T00:00:00Z", "2026-02-01T00:00:00Z"}},
		{"Europe/Berlin", "2026-01-01T00:00:00+01:00", "0 0 29 2 *", []string{"2028-02-29T00:00:00+01:00"}},
		{"Europe/Berlin", "2026-01-01T00:00:00+01:00", "0 * 29 2 *", []string{"2028-02-29T00:00:00+01:00"}},
	} {
		s, err := actors.Cron(tt.expr, location(t, tt.zone))
		if err != nil {
			t.Error(err)
			continue
		}
		at, err := time.Parse(time.RFC3339, tt.from)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range tt.want {
			at = s.Next(at)
			if got := at.Format(time.RFC3339); got != want {
				t.Errorf("%s in %s from %s: %s, want %s", tt.expr, tt.zone, tt.from, got, want)
				break
			}
		}
	}
}

// TestCronMinuteByMinute compares with a clock that is looked at each minute.
func TestCronMinuteByMinute(t *testing.T) {
	t.Parallel()
	for _, z := range []struct{ zone, from string }{
		{"Europe/Berlin", "2026-03-28T00:00:00Z"},
		{"Europe/Berlin", "2026-10-24T00:00:00Z"},
		{"America/Sao_Paulo", "2018-11-03T00:00:00Z"},
		{"America/Sao_Paulo", "2018-02-17T00:00:00Z"},
		{"Australia/Lord_Howe", "2026-10-03T00:00:00Z"},
		{"Australia/Lord_Howe", "2026-04-04T00:00:00Z"},
		{"Pacific/Apia", "2011-12-29T00:00:00Z"},
	} {
		loc := location(t, z.zone)
		from, err := time.Parse(time.RFC3339, z.from)
		if err != nil {
			t.Fatal(err)
		}
		for _, expr := range []string{"* * * * *", "*/7 * * * *", "30 * * * *", "0 0 * * *", "30 2 * * *", "*/20 1-3 * * *", "59 23 * * *", "5 */2 * * 0", "15 2 4 * *"} {
			t.Run(fmt.Sprint(z.zone, from.Year(), from.Month(), " ", expr), func(t *testing.T) {
				plain, err := cron.ParseStandard(expr)
				if err != nil {
					t.Fatal(err)
				}
				due := make(map[int64]bool) // by the clock on the wall, which is at most a day from UTC
				for wall := plain.Next(from.AddDate(0, 0, -2)); !wall.IsZero() && wall.Before(from.AddDate(0, 0, 6)); wall = plain.Next(wall) {
					due[wall.Unix()] = true
				}
				fires := func(wall time.Time) bool { return due[wall.Unix()] }
				hourly := expr[0] == '*' && expr[len(expr)-7:] == "* * * *" || expr == "30 * * * *"
				s, err := actors.Cron(expr, loc)
				if err != nil {
					t.Fatal(err)
				}
				shows := func(at time.Time) time.Time {
					at = at.In(loc)
					return time.Date(at.Year(), at.Month(), at.Day(), at.Hour(), at.Minute(), 0, 0, time.UTC)
				}
				next, latest := s.Next(from), shows(from)
				for at := from.Add(time.Minute); at.Before(from.AddDate(0, 0, 3)); at = at.Add(time.Minute) {
					var want bool
					if hourly {
						want = fires(shows(at))
					}
					for ; latest.Before(shows(at)); latest = latest.Add(time.Minute) {
						want = want || !hourly && fires(latest.Add(time.Minute))
					}
					if got := next.Equal(at); got != want {
						t.Fatalf("runs at %v: %v, want %v; the next run is at %v", at.In(loc), got, want, next)
					}
					if want {
						next = s.Next(at)
					}
				}
			})
		}
	}
}

func TestCronWrong(t *testing.T) {
	for _, expr := range []string{"", "* * * *", "* * * * * *", "60 * * * *", "0 0 30 2 *", "0 * 30 2 *", "@every 5s", "@reboot", "TZ=UTC 0 3 * * *", "CRON_TZ= 0 3 * * *", "H 3 * * *",
		"5-1 * * * *", "1,,2 * * * *", ",1 * * * *", "1, * * * *", "50-5/5 * * * *", "0 22-2 * * *", "0 0 * * 6-1", "0 0 * * FRI-MON", "0 0 * * fri-1", "0 0 * * 5-Mon", "0 0 * * SAT-SUN/2", "0 0 1 NOV-FEB *", "0 0 1 12-JAN *"} {
		if _, err := actors.Cron(expr, nil); err == nil {
			t.Errorf("Cron(%q) has no error", expr)
		} else {
			t.Log(err)
		}
	}
}

func ExampleCron() {
	schedule, err := actors.Cron("30 3 * * 1-5", time.UTC)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(schedule.Next(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)))
	// Output: 2026-05-04 03:30:00 +0000 UTC
}
