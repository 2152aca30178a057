// Package backup owns backups of volumes: repositories, what is in them, who made
// what when, schedules and retention, and the work in progress. How contents are
// kept is behind Engine; how volumes are read, made and replaced behind Volumes.
package backup
