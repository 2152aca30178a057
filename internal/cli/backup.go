package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	dockercli "github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/completion"
	"github.com/docker/cli/opts"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/client"
)

// shortBackup is as much of a backup's ID as listings show.
func shortBackup(id string) string { return id[:min(12, len(id))] }

func newBackupRepo(dockerCli command.Cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup-repo COMMAND",
		Short: "Say where backups are kept",
		Args:  dockercli.NoArgs,
		RunE:  command.ShowHelp(dockerCli.Err()),
	}
	cmd.AddCommand(newBackupRepoAdd(dockerCli), newBackupRepoList(dockerCli), newBackupRepoRemove(dockerCli))
	return cmd
}

// maxSecret bounds what is taken for a secret.
const maxSecret = 1 << 20

// readSecret reads a file, without the end of its last line; "-" is STDIN.
func readSecret(dockerCli command.Cli, file string) (_ string, err error) {
	var from io.Reader = dockerCli.In()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		from = f
	}
	b, err := io.ReadAll(io.LimitReader(from, maxSecret+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxSecret {
		return "", fmt.Errorf("%s: too large for a secret", file)
	}
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" {
		return "", fmt.Errorf("%s: there is nothing in it", file)
	}
	return s, nil
}

func newBackupRepoAdd(dockerCli command.Cli) *cobra.Command {
	var (
		options  = opts.NewMapOpts(nil, nil)
		secrets  = opts.NewMapOpts(nil, nil)
		password string
	)
	cmd := &cobra.Command{
		Use:   "add [OPTIONS] NAME DIRECTORY|URL --password-file FILE",
		Short: "Make a repository for backups, or take one that is there",
		Long: `Make a repository for backups, or take one that is there. It is a directory of the
daemon's machine, or one of

    s3://BUCKET/PREFIX             --secret access-key=FILE --secret secret-key=FILE
                                   --opt endpoint=HOST:PORT, region, insecure, skip-verify
    sftp://USER@HOST:PORT/PATH     --secret ssh-key=FILE --secret known-hosts=FILE
    azure://ACCOUNT/CONTAINER/DIR  --secret account-key=FILE
    gs://BUCKET/PREFIX             --secret credentials=FILE

The password encrypts everything in the repository. Who loses it loses the backups:
keep it in another place than this machine. Files of secrets are read here and kept
by the daemon where root alone reads them; nothing shows them.`,
		Args: dockercli.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := api.BackupRepositoryAdd{Name: args[0], URL: args[1], Options: options.GetAll(), Secrets: map[string]string{}}
			files := maps.Clone(secrets.GetAll())
			if password != "" {
				files["password"] = password
			}
			for _, k := range slices.Sorted(maps.Keys(files)) {
				var err error
				if r.Secrets[k], err = readSecret(dockerCli, files[k]); err != nil {
					return fmt.Errorf("secret %s: %w", k, err)
				}
			}
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				got, err := hf.AddBackupRepository(cmd.Context(), r)
				if err != nil {
					return err
				}
				what := "there was one already"
				if got.Made {
					what = "made"
				}
				fmt.Fprintln(dockerCli.Out(), got.Name)
				fmt.Fprintf(dockerCli.Err(), "%s: %s\n", got.URL, what)
				return nil
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&password, "password-file", "", `File with the password that encrypts ("-": STDIN)`)
	flags.Var(secrets, "secret", "A secret from a file, as NAME=FILE; may be repeated")
	flags.VarP(options, "opt", "o", "An option of the place, as NAME=VALUE; may be repeated")
	return cmd
}

func newBackupRepoList(dockerCli command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the repositories for backups",
		Args:    dockercli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				all, err := hf.BackupRepositories(cmd.Context())
				if err != nil {
					return err
				}
				w := tabwriter.NewWriter(dockerCli.Out(), 0, 4, 3, ' ', 0)
				fmt.Fprintln(w, "NAME\tKIND\tPLACE")
				for _, r := range all {
					fmt.Fprintf(w, "%s\t%s\t%s\n", r.Name, r.Kind, r.URL)
				}
				return w.Flush()
			})
		},
	}
}

func newBackupRepoRemove(dockerCli command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME [NAME...]",
		Aliases: []string{"remove"},
		Short:   "Forget repositories; the backups in them stay where they are",
		Args:    dockercli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				var errs []error
				for _, a := range args {
					err := hf.RemoveBackupRepository(cmd.Context(), a)
					if err == nil {
						fmt.Fprintln(dockerCli.Out(), a)
					}
					errs = append(errs, err)
				}
				return errors.Join(errs...)
			})
		},
	}
}

func newBackup(dockerCli command.Cli) *cobra.Command {
	var r api.BackupCreate
	cmd := &cobra.Command{
		Use:   "backup [OPTIONS] VOLUME [VOLUME...]",
		Short: "Back up volumes to a repository",
		Long: `Back up volumes to a repository: what is new or changed is read, what the repository
does not have yet is stored, compressed and encrypted.

Containers go on. Where the volume's driver can, a snapshot is read, which is the
volume as of one moment; else a volume in use is read while it changes, and the
backup is marked as "live": a database in it may not start. With --quiesce it is one
moment in any case, see "volume snapshot create --help"; the label
holdfast.backup.quiesce of a volume says so for all its backups.`,
		Args:              dockercli.RequiresMinArgs(1),
		ValidArgsFunction: completion.VolumeNames(dockerCli),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				var errs []error
				for _, v := range args {
					b, err := hf.BackupVolume(cmd.Context(), v, r)
					if err == nil {
						fmt.Fprintln(dockerCli.Out(), b.ID)
						fmt.Fprintln(dockerCli.Err(), backupLine(b))
					}
					errs = append(errs, err)
				}
				return errors.Join(errs...)
			})
		},
	}
	cmd.Flags().StringVar(&r.Repository, "repo", "", "Repository (default: the volume's, the daemon's, or the only one)")
	cmd.Flags().StringVar(&r.Tag, "tag", "", "A word to find it by")
	addQuiesce(cmd, &r.Quiesce, "off", "Have what writes to the volume hold still for a moment: on, try, freeze or off (default: as its label says)")
	return cmd
}

func backupLine(b api.Backup) string {
	line := fmt.Sprintf("%s: %d files, %s; %d new or changed, %s stored in %s; %s", b.Volume, b.Files, units.HumanSize(float64(b.Bytes)),
		b.ReadFiles, units.HumanSize(float64(b.StoredBytes)), b.Repository, consistencyWords(b.Consistency))
	return line + quietWords(b.Hook, b.PausedNanos, b.QuiesceNote)
}

// consistencyWords says what a state of a volume is.
func consistencyWords(c string) string {
	switch c {
	case "clean":
		return "nobody used it"
	case "application":
		return "application-consistent"
	case "crash":
		return "crash-consistent: one moment, as after a power cut"
	case "live":
		return "not consistent: it was read while it changed"
	}
	return c
}

func newBackups(dockerCli command.Cli) *cobra.Command {
	var (
		repo   string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:               "backups [OPTIONS] [VOLUME]",
		Short:             "List backups, and when the next ones come",
		Args:              dockercli.RequiresMaxArgs(1),
		ValidArgsFunction: completion.VolumeNames(dockerCli),
		RunE: func(cmd *cobra.Command, args []string) error {
			volume := ""
			if len(args) > 0 {
				volume = args[0]
			}
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				all, err := hf.Backups(cmd.Context(), volume, repo)
				if err != nil {
					return err
				}
				if asJSON {
					enc := json.NewEncoder(dockerCli.Out())
					enc.SetIndent("", "  ")
					err = enc.Encode(all)
				} else {
					err = printBackups(dockerCli.Out(), all)
				}
				for _, r := range slices.Sorted(maps.Keys(all.Failed)) {
					err = errors.Join(err, errors.New(all.Failed[r]))
				}
				return err
			})
		},
	}
	cmd.Flags().StringVar(&repo, "repo", "", "Only those in this repository")
	cmd.Flags().BoolVar(&asJSON, "json", false, "Print all that is known as JSON")
	cmd.AddCommand(newBackupRemove(dockerCli))
	return cmd
}

func verifiedWords(v *api.BackupVerification) string {
	switch {
	case v == nil:
		return "NOT VERIFIED"
	case v.Good:
		return "good, " + units.HumanDuration(time.Since(v.At)) + " ago"
	}
	return fmt.Sprintf("DAMAGED: %d problems", len(v.Problems))
}

func printBackups(out io.Writer, all api.BackupList) error {
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, "BACKUP\tVOLUME\tREPOSITORY\tOF\tSIZE\tCONSISTENCY\tVERIFIED\tTAG")
	for _, b := range all.Backups {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s ago\t%s\t%s\t%s\t%s\n", shortBackup(b.ID), b.Volume, b.Repository, units.HumanDuration(time.Since(b.Moment)),
			units.HumanSize(float64(b.Bytes)), b.Consistency, verifiedWords(b.Verified), b.Tag)
	}
	if len(all.Schedules) > 0 {
		fmt.Fprintln(w, "\nVOLUME\tSCHEDULE\tNEXT\tLAST\tLAST ERROR")
	}
	for _, s := range all.Schedules {
		next, last := "-", "never"
		if s.Next != nil {
			next = s.Next.Local().Format(time.DateTime)
		}
		if s.LastBackup != nil {
			last = s.LastBackup.Local().Format(time.DateTime)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", s.Volume, s.Schedule, next, last, cmp.Or(s.LastError, "-"))
	}
	return w.Flush()
}

func newBackupRemove(dockerCli command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:     "rm BACKUP [BACKUP...]",
		Aliases: []string{"remove"},
		Short:   "Remove backups; their room comes back within days",
		Args:    dockercli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				var errs []error
				for _, a := range args {
					b, err := hf.RemoveBackup(cmd.Context(), a)
					if err == nil {
						fmt.Fprintln(dockerCli.Out(), b.ID)
					}
					errs = append(errs, err)
				}
				return errors.Join(errs...)
			})
		},
	}
}

func newRestore(dockerCli command.Cli) *cobra.Command {
	var r api.BackupRestore
	cmd := &cobra.Command{
		Use:   "restore [OPTIONS] BACKUP",
		Short: "Make a volume of a backup",
		Long: `Make a volume of a backup. BACKUP is an ID from "volume backups" or the beginning of
one. A volume of that name is left alone and the restore refused; with --replace the
backup takes its place once it is there as a whole, and what was in the volume goes
to the trash ("volume trash ls").

Each file is checked as it is read. One that is damaged ends the restore, which then
has changed nothing; --partial leaves such files out and names them.`,
		Args: dockercli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				got, err := hf.RestoreBackup(cmd.Context(), args[0], r)
				if err != nil {
					return err
				}
				fmt.Fprintln(dockerCli.Out(), got.Volume)
				fmt.Fprintf(dockerCli.Err(), "%d files, %s\n", got.Files, units.HumanSize(float64(got.Bytes)))
				switch {
				case got.KeptInTrash:
					fmt.Fprintf(dockerCli.Err(), "what was in it is in the trash: volume undelete %s NEW\n", got.Kept)
				case got.Kept != "":
					fmt.Fprintf(dockerCli.Err(), "what was in it is volume %s now\n", got.Kept)
				}
				for _, d := range got.Damaged {
					fmt.Fprintf(dockerCli.Err(), "left out: %s: %s\n", d.Path, d.What)
				}
				return nil
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&r.To, "to", "", "The volume to make (default: the one that the backup is of)")
	flags.StringVarP(&r.Driver, "driver", "d", "", "Volume driver of the new volume (default: the one it was of)")
	flags.BoolVar(&r.Replace, "replace", false, "Put it in place of what is in the volume, which is kept")
	flags.BoolVar(&r.Partial, "partial", false, "Leave out files that are damaged, instead of restoring nothing")
	return cmd
}

func newVerify(dockerCli command.Cli) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "verify [OPTIONS] BACKUP [BACKUP...]",
		Short: "Restore backups into a scratch volume and compare",
		Long: `Restore backups into a scratch volume, which is removed again, and compare file by file
with what was recorded: contents, owners, modes, times, links, extended attributes,
holes. The result is kept with the backup. The exit code is 1 if one is damaged.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if all {
				return dockercli.NoArgs(cmd, args)
			}
			return dockercli.RequiresMinArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return withHoldfast(dockerCli, func(hf *client.Client) error {
				if all {
					list, err := hf.Backups(cmd.Context(), "", "")
					if err != nil {
						return err
					}
					for _, r := range slices.Sorted(maps.Keys(list.Failed)) {
						return errors.New(list.Failed[r])
					}
					for _, b := range list.Backups {
						args = append(args, b.ID)
					}
				}
				bad := false
				for _, a := range args {
					v, err := hf.VerifyBackup(cmd.Context(), a)
					if err != nil {
						return err
					}
					bad = bad || !v.Good
					printVerification(dockerCli.Out(), v)
				}
				if bad {
					return dockercli.StatusError{StatusCode: 1}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "All backups in all repositories")
	return cmd
}

func printVerification(out io.Writer, v api.BackupVerification) {
	if v.Good {
		fmt.Fprintf(out, "%s  %s: good, %d files, %s\n", shortBackup(v.Backup), v.Volume, v.Files, units.HumanSize(float64(v.Bytes)))
		return
	}
	fmt.Fprintf(out, "%s  %s: DAMAGED\n", shortBackup(v.Backup), v.Volume)
	for _, p := range v.Problems {
		fmt.Fprintf(out, "  %s: %s\n", p.Path, p.What)
	}
}
