# git on 5,000 files.

### small_tree
git init -q -b main r; cd r; echo one > a; mkdir d; echo two > d/b; git add .; git commit -q -m first; echo more >> a
git status --short; git diff --stat; git commit -q -am second; git log --format='%h %s'; git show HEAD:a; git rev-parse HEAD
git checkout -q -b side HEAD~1; echo side > c; git add c; git commit -q -m side; git checkout -q main; git merge -q --no-edit side
git log --oneline --graph | cat; git tag v1; git branch; git mv a z; git rm -q d/b; git stash -q; git stash pop -q; git status -s
git reset -q --hard v1; git fsck --strict; git blame -s a | wc -l; git grep -n more; git ls-tree -r HEAD | wc -l; git rev-list --count HEAD
git rebase -q side main; git cherry-pick --allow-empty --keep-redundant-commits v1~1 2>/dev/null | wc -l; git worktree add -q ../w side; ls ../w

### files_5000 timeout=400
python3 - <<'END'
import os
for i in range(5000):
    d = f"r/d{i % 50}/e{i % 7}"; os.makedirs(d, exist_ok=True)
    with open(f"{d}/f{i}.txt", "w") as f: f.write(f"file {i}\n" * (i % 20 + 1))
END
git init -q -b main r; cd r; git add .; git commit -q -m all; git ls-files | wc -l; git rev-parse HEAD^{tree}
git status --short | wc -l; echo changed >> d1/e1/f1.txt; rm d2/e2/f2.txt; echo new > new; git status --short
git add -A; git commit -q -m second; git log --stat --format=%s | cat; git diff --shortstat HEAD~1
git clone -q . ../c; cd ../c; git log --oneline | wc -l; git ls-files | wc -l; git status -s | wc -l; cd ../r
git gc -q; ls .git/objects/pack | sed 's/.*\.//' | sort; git count-objects -v | grep -E 'in-pack|^count'; git fsck 2>/dev/null; echo $?
git clone -q --bare --no-local . ../b.git; git -C ../b.git rev-parse HEAD; git archive HEAD | tar -tf - | wc -l
git checkout -q HEAD~1; git status -s | wc -l; cat d2/e2/f2.txt; git grep -l 'file 4321' | cat; git push -q ../b.git HEAD:refs/heads/pushed; echo $?
